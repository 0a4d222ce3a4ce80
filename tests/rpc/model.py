"""A tiny model of random weights, saved as a model folder: what a server loads, in a second."""

from __future__ import annotations

from pathlib import Path

import torch

from legato.editing.directions import Directions, save_directions
from legato.models import Encoder, EncoderConfig, Generator, GeneratorConfig, load_generator, save_model
from legato.types import DirectionInfo
from tests.rpc.wire import RESOLUTION

LAYERS, DIM = 10, 16
NAMES = ("smile", "yaw")


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Writes generator, encoder and two directions to `folder`; 64 px, L = 10, D = 16."""
    torch.manual_seed(seed)
    sizes = {"channel_base": 256, "channel_max": 16}
    folder.mkdir(parents=True, exist_ok=True)
    generator = Generator(GeneratorConfig(RESOLUTION, z_dim=DIM, w_dim=DIM, mapping_layers=2, **sizes))
    encoder = Encoder(EncoderConfig(RESOLUTION, LAYERS, w_dim=DIM, pyramid_channels=8, **sizes))
    save_model(generator, folder / "generator.safetensors", meta={})
    save_model(encoder, folder / "encoder.safetensors", meta={})
    digest = load_generator(folder).digest
    vectors = {name: torch.randn(LAYERS, DIM) for name in NAMES}
    infos = {name: DirectionInfo(name, f"more {name}", response=2.0, leakage=0.1) for name in NAMES}
    directions = Directions(vectors, infos, generator_digest=digest)
    save_directions(directions, folder / "directions.safetensors", provenance={})
    return folder
