"""What a client may ask of a session: delivery policy, settings of its frames, changes on the way. No torch here."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace

from legato.types import Edit, Outputs


class Policy(enum.Enum):
    """How frames are delivered when they come faster than they are answered."""

    ORDERED = "ORDERED"  # every frame, in order
    LATEST = "LATEST"  # the newest wins; every frame that is passed over is told


class DropReason(enum.Enum):
    """Why a frame was passed over. DISCONNECTED never travels: nobody is there to be told."""

    STALE = "STALE"
    QUEUE_FULL = "QUEUE_FULL"
    DEADLINE = "DEADLINE"
    SHUTDOWN = "SHUTDOWN"
    DISCONNECTED = "DISCONNECTED"


class ImageFormat(enum.Enum):
    """Encodings of an image outside the model."""

    RAW_RGB8 = "RAW_RGB8"
    JPEG = "JPEG"
    PNG = "PNG"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How images go back to the client. `quality` is JPEG's, 1..100."""

    format: ImageFormat = ImageFormat.JPEG
    quality: int = 90


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work a frame may cost. It counts as late `deadline_seconds` after arrival; 0: the server's default.

    `window_steps` are taken after it on its stream's window, even where that keeps others waiting.
    """

    max_steps: int = 0
    deadline_seconds: float = 0.0
    window_steps: int = 0


@dataclass(frozen=True, slots=True)
class Variant:
    """One of a frame's further edited images."""

    name: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What frames ask for until an update says otherwise."""

    edits: tuple[Edit, ...] = ()
    variants: tuple[Variant, ...] = ()
    budget: Budget = field(default_factory=Budget)
    outputs: Outputs = field(default_factory=Outputs)
    encoding: Encoding = field(default_factory=Encoding)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of Settings from frame `from_seq` on (0: the next one). None leaves a part as it is."""

    from_seq: int = 0
    edits: tuple[Edit, ...] | None = None
    variants: tuple[Variant, ...] | None = None
    budget: Budget | None = None
    outputs: Outputs | None = None
    encoding: Encoding | None = None

    def apply(self, settings: Settings) -> Settings:
        """The settings after this change."""
        parts = {name: getattr(self, name) for name in ("edits", "variants", "budget", "outputs", "encoding")}
        return replace(settings, **{name: part for name, part in parts.items() if part is not None})
