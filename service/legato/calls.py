"""What waits for the engine, how it is answered, and who hears of it. No torch here."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from legato.errors import LegatoError
from legato.types import Edit, FrameAnswer, FrameJob, Synthesis

Done = Callable[[FrameAnswer | LegatoError], None]

log = logging.getLogger(__name__)


class Call(Protocol):
    """Something for the engine to run: where it stands in the queue, and how it is answered.

    Calls of slot -1 belong to no session and have no order among them. `deadline` is in monotonic seconds, inf for
    none.
    """

    @property
    def slot(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    def give(self, result: Any) -> None:
        """Answers the call, with its result or a LegatoError. The engine calls it once."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameCall:
    """A frame to invert; answered with a FrameAnswer."""

    job: FrameJob
    done: Done
    since: float = 0.0  # monotonic seconds at which it was submitted

    @property
    def slot(self) -> int:
        return self.job.slot

    @property
    def seq(self) -> int:
        return self.job.seq

    @property
    def deadline(self) -> float:
        return self.job.deadline

    def give(self, result: Any) -> None:
        self.done(result)


@dataclass(frozen=True, slots=True, eq=False)
class SynthesisCall:
    """Latents [L, D], or a seed that draws them, to synthesize; answered with a Synthesis."""

    latents: NDArray[np.float32] | None
    seed: int
    truncation: float
    edits: tuple[Edit, ...]
    future: Future[Synthesis]
    slot: int = -1
    seq: int = -1  # nobody cancels it by its number
    deadline: float = math.inf

    def give(self, result: Any) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, LegatoError):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class CallQueue(Protocol):
    """Decides who goes into the next batch, as `legato.scheduler.Scheduler` does. The user holds a lock."""

    def __len__(self) -> int: ...
    def add(self, call: Call, now: float) -> None: ...
    def take(self, now: float, *, flush: bool = False) -> list[Call]: ...
    def wake_time(self, now: float) -> float: ...
    def cancel(self, slot: int, seq: int) -> Call | None: ...
    def forget(self, slot: int) -> list[Call]: ...
    def drain(self) -> list[Call]: ...


class EngineObserver(Protocol):
    """Hears what the engine does, on the engine's thread. It must not block."""

    def batch(self, stage: str, size: int, seconds: float) -> None: ...
    def steps(self, n: int) -> None: ...
    def psnr(self, db: float) -> None: ...
    def queue(self, depth: int) -> None: ...
    def heartbeat(self) -> None: ...


class Unobserved:
    """An observer that hears nothing."""

    def batch(self, stage: str, size: int, seconds: float) -> None: ...
    def steps(self, n: int) -> None: ...
    def psnr(self, db: float) -> None: ...
    def queue(self, depth: int) -> None: ...
    def heartbeat(self) -> None: ...


def guarded(work: Callable[[], Any]) -> Any:
    """What `work` returns, or the LegatoError that it ended in; an unexpected error tells nothing but an id."""
    try:
        return work()
    except LegatoError as error:
        return error
    except Exception:
        name = uuid.uuid4().hex[:12]
        log.exception("internal error %s", name)
        return LegatoError(f"internal error {name}; the server's log tells more under this id")
