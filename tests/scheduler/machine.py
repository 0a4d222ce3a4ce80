"""A device that takes the time it is told to, on a clock that nobody waits for."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from legato.calls import Action, Call, FrameCall, Stage
from legato.errors import Overloaded
from legato.scheduler import Scheduler
from legato.types import Frame, FrameJob

FRAME = Frame(np.zeros((1, 1, 3), np.uint8))
WAIT = 0.004
SECONDS = {Stage.ENCODE: 0.002, Stage.REFINE: 0.010, Stage.SYNTHESIZE: 0.004}  # of a batch of 1


def scheduler(
    capacity: int = 64, buckets: tuple[int, ...] = (1, 2, 4), patience: float = 1.0, in_flight: int = 32
) -> Scheduler:
    return Scheduler(
        capacity=capacity,
        buckets=buckets,
        max_wait=WAIT,
        in_flight=in_flight,
        patience=patience,
        recent_seconds=0.25,
    )


def call(
    slot: int,
    seq: int,
    deadline: float = math.inf,
    *,
    steps: int = 0,
    droppable: bool = False,
    arrival: float = 0.0,
    variants: int = 0,
) -> FrameCall:
    asked = ((),) * variants
    job = FrameJob(slot, seq, FRAME, max_steps=steps, deadline=deadline, droppable=droppable, variants=asked)
    return FrameCall(job, lambda answer: None, since=arrival)


def names(calls: Sequence[Call]) -> list[tuple[int, int]]:
    return [(item.slot, item.seq) for item in calls]


def seconds(stage: Stage, size: int) -> float:
    """What a batch takes: half of it for being a batch, half of it for each call."""
    return SECONDS[stage] * (1 + size) / 2


def seeded(queue: Scheduler, buckets: Iterable[int] = (1, 2, 4)) -> Scheduler:
    """The queue, with what a warm-up tells it."""
    for stage in SECONDS:
        for size in buckets:
            queue.seed(stage, size, seconds(stage, size))
    return queue


@dataclass
class Outcome:
    """How a call left."""

    call: FrameCall
    at: float
    steps: int = 0
    dropped: bool = False
    refused: bool = False

    @property
    def age(self) -> float:
        return self.at - self.call.since


@dataclass
class Machine:
    """Runs what a scheduler decides; `overtake`: a call that comes in takes back those of its slot that wait."""

    queue: Scheduler
    cost: Callable[[Stage, int], float] = seconds
    overtake: bool = False
    now: float = 0.0
    actions: list[tuple[float, Action]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    overloads: list[float] = field(default_factory=list)
    _steps: dict[Call, int] = field(default_factory=dict)

    def run(self, arrivals: Iterable[FrameCall]) -> list[Outcome]:
        """Lets the calls come in at their `since`, until all have left."""
        waiting = [(each.since, index, each) for index, each in enumerate(arrivals)]
        heapq.heapify(waiting)
        while waiting or self.queue.busy:
            while waiting and waiting[0][0] <= self.now:
                self._arrive(heapq.heappop(waiting)[2])
            if self.queue.overloaded(self.now):
                self.overloads.append(self.now)
            action = self.queue.next(self.now)
            if action is None:
                self.now = min(self.queue.wake_time(self.now), waiting[0][0] if waiting else math.inf)
            else:
                self._do(action)
        return self.outcomes

    def _arrive(self, new: FrameCall) -> None:
        if self.overtake:
            for seq in range(new.seq):
                old = self.queue.cancel(new.slot, seq)
                if isinstance(old, FrameCall):
                    self.outcomes.append(Outcome(old, self.now, dropped=True))
        try:
            self.queue.add(new, self.now)
        except Overloaded:
            self.outcomes.append(Outcome(new, self.now, refused=True))

    def _do(self, action: Action) -> None:
        self.actions.append((self.now, action))
        frames = [item for item in action.calls if isinstance(item, FrameCall)]
        if action.stage is Stage.DROP:
            assert self.queue.done(action, self.now, 0.0) == frames
            self.outcomes += [Outcome(item, self.now, dropped=True) for item in frames]
            return
        took = self.cost(action.stage, action.load)
        self.now += took
        for item in frames:
            self._steps[item] = self._steps.get(item, 0) + (action.stage is Stage.REFINE)
        left = self.queue.done(action, self.now, took)
        self.outcomes += [Outcome(item, self.now, self._steps[item]) for item in frames if item in left]
