"""A tiny model with a judging network, and clips of it."""

from __future__ import annotations

from pathlib import Path

import torch

from legato.editing.directions import load_directions
from legato.evaluation.known import Protocol
from legato.evaluation.measure import Judges
from legato.evaluation.run import Setup
from legato.evaluation.synthetic import synthetic_clips
from legato.inversion.methods import Networks
from legato.models import load_encoder, load_generator
from legato.models.attributes import AttributeNetwork, AttributesConfig, load_attributes, save_attributes
from legato.synthetic.factors import ATTRIBUTES
from tests.rpc.model import save_tiny_model

EDITED = ("smile", "yaw")


def save_judged_model(folder: Path) -> Path:
    """`save_tiny_model` and an attribute network of random weights."""
    save_tiny_model(folder)
    torch.manual_seed(1)
    network = AttributeNetwork(AttributesConfig(ATTRIBUTES, width=4, features=8))
    save_attributes(network, folder / "attributes.safetensors", recipe={})
    return folder


def small_setup(folder: Path, *, clips: int = 2, frames: int = 3) -> Setup:
    """All of a model in `folder`, on synthetic clips of its own."""
    generator, encoder = load_generator(folder), load_encoder(folder)
    directions, network = load_directions(folder), load_attributes(folder)
    protocol: Protocol = synthetic_clips(
        generator, directions, clips=clips, frames=frames, attributes=EDITED, network=network
    )
    return Setup(Networks(generator, encoder), directions, Judges(network), protocol, EDITED)
