"""Values that travel between the layers, checked at birth. No torch here: the session and the scheduler import this."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from legato.errors import InvalidEdit, InvalidImage, InvalidInput

MAX_EDIT_STRENGTH = 10.0
Space = Literal["w+", "s"]  # what a direction is a step of: latents [L, D], or the style space S


@dataclass(frozen=True, slots=True)
class Frame:
    """One image outside the model: uint8 [H, W, 3], RGB."""

    pixels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        p = self.pixels
        if p.dtype != np.uint8 or p.ndim != 3 or p.shape[2] != 3 or 0 in p.shape:
            raise InvalidImage(f"a frame is uint8 [H, W, 3] RGB with H, W >= 1; got {p.dtype} {list(p.shape)}")

    def __repr__(self) -> str:
        return f"Frame({self.pixels.shape[0]}x{self.pixels.shape[1]})"


@dataclass(frozen=True, slots=True)
class Flow:
    """Pull flow, float32 [2, H, W] in pixels, (x, y) order: previous(p + flow(p)) ~ current(p)."""

    vectors: NDArray[np.float32]

    def __post_init__(self) -> None:
        v = self.vectors
        if v.dtype != np.float32 or v.ndim != 3 or v.shape[0] != 2 or 0 in v.shape:
            raise InvalidInput(f"a flow is float32 [2, H, W]; got {v.dtype} {list(v.shape)}", reason="INVALID_FLOW")
        if not np.isfinite(v).all():
            raise InvalidInput("a flow holds finite pixels; got NaN or infinity", reason="INVALID_FLOW")


@dataclass(frozen=True, slots=True)
class Edit:
    """A step along a named direction; strength in standard deviations of its attribute, |strength| <= 10."""

    direction: str
    strength: float

    def __post_init__(self) -> None:
        if not self.direction:
            raise InvalidEdit("an edit names a direction; got an empty name")
        if not math.isfinite(self.strength) or abs(self.strength) > MAX_EDIT_STRENGTH:
            raise InvalidEdit(
                f"edit strength of {self.direction!r} is a finite number within +-{MAX_EDIT_STRENGTH:g} "
                f"(standard deviations of the attribute); got {self.strength}"
            )


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a frame's answer shall hold."""

    reconstruction: bool = True
    edited: bool = True  # the image of its edits, and those of its variants
    latents: bool = False


@dataclass(frozen=True, slots=True)
class FrameJob:
    """One frame of one session on its way to the engine."""

    slot: int  # where the session's state lives in the engine; -1: no session (unary Invert), state is not kept
    seq: int
    frame: Frame  # [R, R, 3] at the model's resolution
    edits: tuple[Edit, ...] = ()  # what `edited` shows; none: there is no such image
    outputs: Outputs = field(default_factory=Outputs)
    max_steps: int = 0
    window_steps: int = 0  # on the stream's window, after the frame
    arrival: float = 0.0  # monotonic seconds
    deadline: float = math.inf  # monotonic seconds
    flow: Flow | None = None
    droppable: bool = False  # may be passed over where it cannot be answered before its deadline
    variants: tuple[tuple[Edit, ...], ...] = ()  # further edited images, each with edits of its own

    @property
    def edited(self) -> tuple[tuple[Edit, ...], ...]:
        """The edits of every edited image that is asked for."""
        if not self.outputs.edited:
            return ()
        return (self.edits, *self.variants) if self.edits else self.variants

    @property
    def images(self) -> int:
        """How many images are synthesized for it; the tracker needs the reconstruction of a frame that takes steps."""
        return len(self.edited) + (self.outputs.reconstruction or self.max_steps > 0)


@dataclass(frozen=True, slots=True)
class FrameAnswer:
    """What the engine made of a FrameJob. Images uint8 [R, R, 3]; latents float32 [L, D]; times in seconds.

    `variants`: one image for each of the job's, or none where no edited image is asked for.
    """

    seq: int
    reconstruction: NDArray[np.uint8] | None
    edited: NDArray[np.uint8] | None
    latents: NDArray[np.float32] | None
    psnr_db: float
    steps: int
    state_version: int
    stage_seconds: Mapping[str, float]
    variants: tuple[NDArray[np.uint8], ...] = ()


@dataclass(frozen=True, slots=True)
class ClipMethod:
    """What a clip's method asks for. `label` is its text."""

    label: str
    steps: int  # of each solve, at most
    compares: bool  # frames with their neighbors, so that they must be of one size


@dataclass(frozen=True, slots=True)
class ClipJob:
    """A whole clip on its way to the engine."""

    frames: tuple[Frame, ...]  # each [R, R, 3] at the model's resolution
    method: str
    edits: tuple[Edit, ...] = ()
    on_step: Callable[[int, int], None] | None = None  # (steps taken, steps in all at most), on the engine's thread


@dataclass(frozen=True, slots=True)
class ClipAnswer:
    """What the engine made of a ClipJob: of each of `frames`, the clip's frames that have a code."""

    frames: tuple[int, ...]  # [T]
    reconstruction: NDArray[np.uint8]  # [T, R, R, 3]
    edited: NDArray[np.uint8] | None  # [T, R, R, 3]; None without edits
    latents: NDArray[np.float32]  # [T, L, D], edits not applied
    psnr_db: tuple[float, ...]  # [T]
    seconds: float  # of the inversion, the time that frames took from it included
    passes_per_frame: float  # of the generator


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The image uint8 [R, R, 3] of a code, edits applied, and the code itself without them: latents float32 [L, D]."""

    image: NDArray[np.uint8]
    latents: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DirectionInfo:
    """A named direction with what was measured of it: response of its attribute at strength 2, mean leakage."""

    name: str
    description: str
    response: float
    leakage: float
    space: Space = "w+"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a client may know of a loaded model."""

    name: str
    digest: str  # sha256 of the weights, hex
    resolution: int
    layers: int
    dim: int
    description: str = ""
    version: str = ""  # "": of a model without versions
    encoder_digest: str = ""
