"""One frame on its way through a session, and what became of it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from legato.options import DropReason, Settings
from legato.types import FrameAnswer
from legato_align.aligner import Alignment


@dataclass(frozen=True, slots=True)
class Failed:
    """A frame that could not be answered, in the words that go to the client."""

    reason: str
    message: str


Outcome = FrameAnswer | Failed | DropReason


@dataclass(slots=True, eq=False)
class Work:
    """One frame on its way. `payload` is what the stream decodes it from; it is let go when the frame settles."""

    seq: int
    payload: Any
    settings: Settings
    arrival: float  # monotonic seconds
    capture_time: float = 0.0
    taken: bool = False
    submitted: bool = False  # the engine has it
    decode_seconds: float = 0.0
    alignment: Alignment | None = None  # where the session asked for it
    outcome: Outcome | None = None


@dataclass(slots=True)
class Stats:
    """Counters of a session's whole life."""

    received: int = 0
    completed: int = 0
    dropped: int = 0
    failed: int = 0
    psnr_sum: float = 0.0
    psnr_frames: int = 0

    @property
    def mean_psnr_db(self) -> float:
        """Mean over the frames that were reconstructed; 0 before the first."""
        return self.psnr_sum / self.psnr_frames if self.psnr_frames else 0.0


class FrameObserver(Protocol):
    """Hears of every frame of a session."""

    def received(self) -> None: ...
    def settled(self, work: Work, outcome: Outcome) -> None: ...


class Unobserved:
    """Hears nothing of frames."""

    def received(self) -> None:
        return None

    def settled(self, work: Work, outcome: Outcome) -> None:
        return None
