"""Values of a clip that is inverted as a whole. No protobuf in sight: `wire` converts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from legato_client.images import Image
from legato_client.model_types import ModelRef


@dataclass(frozen=True, slots=True)
class ClipProgress:
    """How far a clip is: `ahead` clips are worked on first, then `step` of `steps` at most are taken."""

    ahead: int
    step: int
    steps: int
    seconds: float
    seconds_left: float


@dataclass(frozen=True, slots=True, eq=False)
class ClipFrame:
    """One frame of an inverted clip; `index` is its place among the frames that were sent. Latents float32 [L, D]."""

    index: int
    reconstruction: Image | None
    edited: Image | None
    latents: NDArray[np.float32] | None = field(repr=False)
    psnr_db: float | None


@dataclass(frozen=True, slots=True, eq=False)
class ClipInversion:
    """A clip, inverted as a whole. `frames` are in order; only methods that give frames up leave some out.

    `seconds` and `passes_per_frame` (of the generator, forward and backward one each) are what it took.
    """

    frames: tuple[ClipFrame, ...] = field(repr=False)
    method: str
    steps: int
    seconds: float
    passes_per_frame: float
    model_digest: str
    model: ModelRef = field(default_factory=ModelRef, repr=False)

    @property
    def latents(self) -> NDArray[np.float32] | None:
        """float32 [T, L, D], edits not applied; None where they were not asked for."""
        found = [frame.latents for frame in self.frames if frame.latents is not None]
        return np.stack(found) if found else None

    @property
    def psnr_db(self) -> float | None:
        """Mean over the frames."""
        known = [frame.psnr_db for frame in self.frames if frame.psnr_db is not None]
        return sum(known) / len(known) if known else None
