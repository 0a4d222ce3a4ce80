"""Values that the client takes and gives, checked at birth. No protobuf in sight: `wire` converts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from legato_client.alignment import Alignment, FrameAlignment
from legato_client.errors import InvalidEdit, InvalidInput, LegatoError, from_reason
from legato_client.images import Image, ImageFormat, Picture
from legato_client.model_types import ModelInfo, ModelRef

Policy = Literal["ordered", "latest", "lossless"]
DropReason = Literal["stale", "queue_full", "deadline", "shutdown", "unspecified"]
FrameEncoding = Literal["auto", "raw", "jpeg"]


@dataclass(frozen=True, slots=True)
class Edit:
    """A step along a named direction; strength in standard deviations of its attribute."""

    direction: str
    strength: float

    def __post_init__(self) -> None:
        if not self.direction:
            raise InvalidEdit("an edit names a direction; got an empty name")
        if not math.isfinite(self.strength):
            raise InvalidEdit(f"the strength of edit {self.direction!r} is a finite number; got {self.strength}")


Edits: TypeAlias = Iterable[Edit] | Mapping[str, float]
Variants: TypeAlias = Iterable[Edits] | Mapping[str, Edits]


def edit_list(edits: Edits) -> tuple[Edit, ...]:
    """Edits from either form that users write: `[Edit("smile", 2)]` or `{"smile": 2}`."""
    if isinstance(edits, Mapping):
        return tuple(Edit(name, float(strength)) for name, strength in edits.items())
    return tuple(edits)


def variant_list(variants: Variants) -> tuple[tuple[str, tuple[Edit, ...]], ...]:
    """Names and edits of variants from either form that users write: `{"young": {"age": -2}}`, or without names, which
    are then their numbers: `[{"age": -2}, {"age": 2}]`."""
    if isinstance(variants, Mapping):
        return tuple((name, edit_list(edits)) for name, edits in variants.items())
    return tuple((str(number), edit_list(edits)) for number, edits in enumerate(variants, 1))


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work a frame may cost: gradient steps, and the wanted answer time (0: the server's default).

    `window_steps` are joint steps on the stream's window after each frame, even on a busy server: quality first.
    """

    max_steps: int = 0
    deadline_seconds: float = 0.0
    window_steps: int = 0

    def __post_init__(self) -> None:
        if self.max_steps < 0:
            raise InvalidInput(f"max_steps is a count of gradient steps, 0 or more; got {self.max_steps}")
        if self.window_steps < 0:
            raise InvalidInput(f"window_steps is a count of steps, 0 or more; got {self.window_steps}")
        if not (math.isfinite(self.deadline_seconds) and self.deadline_seconds >= 0):
            raise InvalidInput(f"deadline_seconds is a finite time, 0 or more; got {self.deadline_seconds}")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What an answer shall hold, and in which image format it travels."""

    reconstruction: bool = True
    edited: bool = True  # the variants too
    latents: bool = False
    format: ImageFormat = "jpeg"
    jpeg_quality: int = 90

    def __post_init__(self) -> None:
        if self.format not in get_args(ImageFormat):
            raise InvalidInput(f"an image format is one of {', '.join(get_args(ImageFormat))}; got {self.format!r}")
        if not 1 <= self.jpeg_quality <= 100:
            raise InvalidInput(f"jpeg_quality lies in 1..100; got {self.jpeg_quality}")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame to send, where an image alone does not say all.

    `image` is uint8 [H, W, 3] RGB, or JPEG or PNG bytes. `capture_time` is in seconds since the epoch. `edits` and
    `variants` replace the session's for this frame alone. `flow` is pull flow, float32 [2, H, W] in pixels, (x, y)
    order.
    """

    image: Picture
    capture_time: float = 0.0
    edits: tuple[Edit, ...] | None = None
    flow: NDArray[np.float32] | None = None
    variants: Variants | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.capture_time) and self.capture_time >= 0):
            raise InvalidInput(f"capture_time is in seconds since the epoch; got {self.capture_time}")
        flow = self.flow
        if flow is not None and (flow.dtype != np.float32 or flow.ndim != 3 or flow.shape[0] != 2):
            raise InvalidInput(
                f"a flow is float32 [2, H, W]; got {flow.dtype} {list(flow.shape)}", reason="INVALID_FLOW"
            )


@dataclass(frozen=True, slots=True, eq=False)
class FrameResult:
    """A frame, inverted and edited.

    `latents` is float32 [L, D] in W+. `psnr_db` compares the reconstruction, where one was asked for, with the frame at
    the model's resolution. `variants` has an image for every variant that was asked for, by its name or number.
    `server_seconds` runs from arrival to answer, `stage_seconds` says where it went; `age_seconds` runs from the
    hand-over of the frame to `send` until its answer was here.
    """

    seq: int
    reconstruction: Image | None
    edited: Image | None
    latents: NDArray[np.float32] | None = field(repr=False)
    psnr_db: float | None
    steps: int
    state_version: int
    capture_time: float
    server_seconds: float
    stage_seconds: Mapping[str, float]
    age_seconds: float
    variants: Mapping[str, Image] = field(default_factory=dict)
    model: ModelRef = field(default_factory=ModelRef, repr=False)
    alignment: FrameAlignment | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that was passed over, and why. `by` tells which side did it."""

    seq: int
    reason: DropReason
    by: Literal["client", "server"] = "server"


@dataclass(frozen=True, slots=True)
class Failed:
    """A frame that could not be answered. The session goes on; `raise answer.error` where that is wanted."""

    seq: int
    reason: str
    message: str

    @property
    def error(self) -> LegatoError:
        return from_reason(self.reason, self.message)


Answer: TypeAlias = FrameResult | Dropped | Failed


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes."""

    max_message_bytes: int
    max_pixels: int
    max_steps: int
    max_edit_strength: float
    max_edits: int
    resume_seconds: float
    max_variants: int = 0
    max_window_steps: int = 0


@dataclass(frozen=True, slots=True)
class Direction:
    """A named editing direction: measured response of its attribute at strength 2, mean leakage to the others.

    `space` says what it is a step of: "w+", the latents, or "s", the style space.
    """

    name: str
    description: str
    response: float
    leakage: float
    space: str = "w+"


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Counters of a session, as the server keeps them."""

    frames_received: int
    frames_completed: int
    frames_dropped: int
    frames_failed: int
    mean_psnr_db: float


@dataclass(frozen=True, slots=True)
class Opened:
    """What the server granted at open."""

    session_id: str
    resume_token: str = field(repr=False)  # whoever holds it holds the session
    limits: Limits
    model: ModelInfo
    credits: int


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session as `get_session` sees it."""

    session_id: str
    streaming: bool
    model: str
    last_seq: int
    state_version: int
    stats: SessionStats
    model_ref: ModelRef = field(default_factory=ModelRef)


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning of the server, or its word that it is about to stop (`deadline_seconds` from then)."""

    reason: str
    message: str
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Inversion:
    """One image, inverted without a session. Latents float32 [L, D]."""

    reconstruction: Image | None
    edited: Image | None
    latents: NDArray[np.float32] | None = field(repr=False)
    psnr_db: float | None
    model_digest: str
    variants: Mapping[str, Image] = field(default_factory=dict)
    model: ModelRef = field(default_factory=ModelRef, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Synthesis:
    """A synthesized image and the latents, float32 [L, D], that it shows."""

    image: Image
    latents: NDArray[np.float32] | None = field(repr=False)
    model_digest: str
    model: ModelRef = field(default_factory=ModelRef, repr=False)


class Changes(TypedDict, total=False):
    """What `update` changes: parts that are not given stay as they are."""

    edits: Edits
    variants: Variants
    budget: Budget
    outputs: Outputs
    from_seq: int
    """The first frame that the change holds for; 0: the next one."""


class SessionOptions(TypedDict, total=False):
    """Options of `open`, the same for both clients."""

    model: str
    """Name from `list_models`, or "name@version"; empty: the server's default. The session keeps its version."""
    edits: Edits
    """What `edited` shows; none: no edited image."""
    variants: Variants
    """Further edited images of every frame: `{"young": {"age": -2}, "old": {"age": 2}}`, or a list of them."""
    policy: Policy
    """"ordered": every frame, answers in order; "latest": the newest wins, every drop is told."""
    budget: Budget
    outputs: Outputs
    in_flight: int
    """Frames that may wait for their answers at once, at most what the server grants; 0: what it grants."""
    answers_ahead: int
    """Answers that may wait here until they are taken; the server holds further ones back."""
    frames_as: FrameEncoding
    """How arrays travel: "raw", "jpeg" (quality 95), or "auto": raw up to 256 x 256 pixels. Bytes travel untouched."""
    alignment: Alignment | None
    """The server finds the face in every frame, of any shape. None: frames are crops already."""
    resume_token: str
    """Continues the session of an earlier stream that was cut."""
    last_seq: int
    """With `resume_token`: the last answer that was received."""
