"""What waits for the engine, in which stages it is worked on, how it is answered, who hears of it. No torch here."""

from __future__ import annotations

import enum
import logging
import math
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from legato.errors import LegatoError
from legato.types import Edit, FrameAnswer, FrameJob, Synthesis

Done = Callable[[FrameAnswer | LegatoError], None]

log = logging.getLogger(__name__)


class Stage(enum.StrEnum):
    """What is done with a batch of calls. A frame is encoded, refined 0..k times, synthesized."""

    ENCODE = "encode"
    REFINE = "refine"  # one step
    SYNTHESIZE = "synthesize"  # with the edits in the same batch; then the frame is answered
    DRAW = "draw"  # all that there is to do for a SynthesisCall, one at a time
    DROP = "drop"  # nothing; these calls cannot be answered in time


@dataclass(frozen=True, slots=True, eq=False)
class Action:
    """What the engine does next: one stage of some calls."""

    stage: Stage
    calls: tuple[Call, ...]

    @property
    def load(self) -> int:
        """What it costs depends on this: the images of a synthesis, the calls of another stage."""
        return sum(call.images for call in self.calls) if self.stage is Stage.SYNTHESIZE else len(self.calls)


class Call(Protocol):
    """Something for the engine to run: where it stands in the queue, and how it is answered.

    Calls of slot -1 belong to no session and have no order among them. `deadline` is in monotonic seconds, inf for
    none. `stage` is the first, `steps` how many refine steps are wanted at most, `images` how many are synthesized. One
    that is `droppable` may be dropped where it cannot be answered before its deadline.
    """

    @property
    def slot(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    @property
    def stage(self) -> Stage: ...
    @property
    def steps(self) -> int: ...
    @property
    def images(self) -> int: ...
    @property
    def droppable(self) -> bool: ...
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

    @property
    def stage(self) -> Stage:
        return Stage.ENCODE

    @property
    def steps(self) -> int:
        return self.job.max_steps

    @property
    def images(self) -> int:
        return self.job.images

    @property
    def droppable(self) -> bool:
        return self.job.droppable

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
    stage: Stage = Stage.DRAW
    steps: int = 0
    images: int = 1
    droppable: bool = False

    def give(self, result: Any) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, LegatoError):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class CallQueue(Protocol):
    """Decides what runs next, as `legato.scheduler.Scheduler` does. The user holds a lock."""

    def __len__(self) -> int: ...
    @property
    def busy(self) -> bool: ...
    def add(self, call: Call, now: float) -> None: ...
    def next(self, now: float, *, flush: bool = False) -> Action | None: ...
    def done(self, action: Action, now: float, seconds: float, *, ended: Collection[Call] = ()) -> list[Call]: ...
    def seed(self, stage: Stage, size: int, seconds: float) -> None: ...
    def shrink(self, largest: int) -> None: ...
    def wake_time(self, now: float) -> float: ...
    def room(self, now: float) -> float: ...
    def overloaded(self, now: float) -> bool: ...
    def cancel(self, slot: int, seq: int) -> Call | None: ...
    def forget(self, slot: int) -> list[Call]: ...
    def drain(self) -> list[Call]: ...


class EngineObserver(Protocol):
    """Hears what the engine does, on the engine's thread. It must not block."""

    def batch(self, stage: str, size: int, seconds: float) -> None: ...
    def steps(self, n: int) -> None: ...
    def psnr(self, db: float) -> None: ...
    def queue(self, depth: int) -> None: ...
    def window(self, keyframes: int) -> None: ...
    def memory(self, session: int, in_flight: int) -> None: ...
    def largest_batch(self, size: int, *, out_of_memory: bool) -> None: ...
    def graphs(self, stage: str, captured: int, direct: int) -> None: ...
    def heartbeat(self) -> None: ...


class Unobserved:
    """An observer that hears nothing."""

    def batch(self, stage: str, size: int, seconds: float) -> None: ...
    def steps(self, n: int) -> None: ...
    def psnr(self, db: float) -> None: ...
    def queue(self, depth: int) -> None: ...
    def window(self, keyframes: int) -> None: ...
    def memory(self, session: int, in_flight: int) -> None: ...
    def largest_batch(self, size: int, *, out_of_memory: bool) -> None: ...
    def graphs(self, stage: str, captured: int, direct: int) -> None: ...
    def heartbeat(self) -> None: ...


def guarded(work: Callable[[], Any], through: tuple[type[Exception], ...] = ()) -> Any:
    """What `work` returns, or the LegatoError that it ended in; an unexpected error tells nothing but an id.

    Raises what is `through`.
    """
    try:
        return work()
    except through:
        raise
    except LegatoError as error:
        return error
    except Exception:
        name = uuid.uuid4().hex[:12]
        log.exception("internal error %s", name)
        return LegatoError(f"internal error {name}; the server's log tells more under this id")
