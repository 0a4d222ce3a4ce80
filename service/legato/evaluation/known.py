"""What an evaluation inverts: clips, with what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from legato.evaluation.editability import TrueEdit
from legato.evaluation.metrics import Motion
from legato.models.attributes import AttributeNetwork

# What the packaged network reads best (R^2 on held-out renders): three of motion, three of identity.
EDITED = ("smile", "mouth_open", "yaw", "hair_length", "hair_tone", "skin_tone")


@dataclass(frozen=True, slots=True, eq=False)
class KnownClip:
    """Frames in [-1, 1] and what is known of them."""

    name: str
    frames: Tensor  # [T, 3, R, R]
    motion: Motion | None  # None of a single frame
    flow: Literal["exact", "estimated"]
    latents: Tensor | None = None  # [T, L, D] that made the frames, where a generator did
    truths: Mapping[str, TrueEdit] = field(default_factory=dict)  # by attribute, where they are known
    amounts: Mapping[str, float] = field(default_factory=dict)  # signed standard deviations, where no truth is


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """The clips of an evaluation."""

    name: str
    about: str  # what they are, in a sentence
    settings: Mapping[str, Any]  # JSON values that determine them
    clips: tuple[KnownClip, ...]
    told: tuple[str, ...] = ()  # what was left out or resized


def away(mean: float, strength: float) -> float:
    """The signed strength of an edit of heads whose attribute is `mean` standard deviations from the population's: up
    where it is low and down where it is high, so that there is something to move."""
    return -strength if mean > 0 else strength


def away_by_reading(network: AttributeNetwork | None, frames: Tensor, attribute: str, strength: float) -> float:
    """`away` of frames [T, 3, R, R] whose attribute a network reads; up where none does."""
    if network is None or attribute not in network.config.names:
        return strength
    read = network.standardized(frames)[:, network.config.names.index(attribute)]
    return away(float(read.mean()), strength)
