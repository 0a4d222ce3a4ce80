"""Runs the scheduler's actions on the pipeline, and knows which frame in flight belongs to which call."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from legato.calls import Action, Call, FrameCall, Stage, SynthesisCall, guarded
from legato.deltas import Deltas
from legato.devices import in_words, watched
from legato.errors import DeadlineMissed, DeviceLost, LegatoError, OutOfMemory
from legato.flights import Flight
from legato.pipeline import Pipeline
from legato.turns import Turns

LATE = "this frame could not be answered before its deadline, so it was not begun"
NO_MEMORY = "the device has not the memory for this frame, though nothing else ran beside it; try again later"
Ended = dict[Call, Any]  # calls that end with an action, each with its result or a LegatoError
Landing = Callable[[], tuple[Ended, float]]

log = logging.getLogger(__name__)


class Stages:
    """Belongs to the pipeline's thread.

    Args:
        pipeline: what the actions are run on.
        buckets: sizes of batches, increasing.
        shrink: told the largest size that is left to be tried when there was no memory for a larger one.
        turns: of all that compute on the device.
        deltas: tells of slots that get weights of their own.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        buckets: Sequence[int] = (1,),
        shrink: Callable[[int], None] = lambda largest: None,
        turns: Turns | None = None,
        deltas: Deltas | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._buckets = buckets
        self._shrink = shrink
        self._deltas = deltas
        self._turns = turns or Turns()
        self._flights: dict[Call, Flight] = {}
        self._issued: deque[tuple[Action, Landing]] = deque()

    @property
    def busy(self) -> bool:
        """Whether an action has been begun and not waited for."""
        return bool(self._issued)

    def turn(self, action: Action | None) -> Iterator[tuple[Action, Ended, float]]:
        """Begins an action, if there is one, and gives those that came to their end, each as `issue` has it.

        A device that computes on its own has the next action before the last one is waited for.
        """
        if action is not None:
            self._issued.append((action, self.issue(action)))
        while len(self._issued) > (action is not None and self._pipeline.runner.ahead):
            done, land = self._issued.popleft()
            yield done, *land()

    def issue(self, action: Action) -> Landing:
        """Begins what the action says. What it gives waits for the end of it: the calls that end with it, and the
        seconds that it took, 0 where they tell nothing of the next time.

        Both raise DeviceLost.
        """
        for slot, generator in self._deltas.changes() if self._deltas else ():
            self._pipeline.tune(slot, generator)
        device = self._pipeline.runner
        turn = nullcontext() if action.stage is Stage.DROP else self._turns.turn()
        with watched(device), turn:
            began = device.mark()
            parts = self._begun(action)
            ended = device.mark() if device.ahead else None
            settle = self._pipeline.lap()

        def land() -> tuple[Ended, float]:
            found: Ended = {}
            for part in parts:
                found |= part()
            with watched(device):
                settle()
                seconds = device.seconds(began, ended or device.mark())
            usual = len(parts) == 1 and not any(type(result) in (LegatoError, OutOfMemory) for result in found.values())
            return found, seconds if usual else 0.0

        return land

    def improve(self) -> int:
        """A step of a stream's window, where nobody needs the device: of how many keyframes."""
        if self._turns.rest():
            return 0
        try:
            with watched(self._pipeline.runner), self._turns.turn(urgent=False):
                return self._pipeline.improve()
        except torch.OutOfMemoryError as error:
            log.error("out of memory in a window's step", extra={"fields": {"why": in_words(error)}})
        self._pipeline.runner.relieve()
        return 0

    def abandon(self, calls: Iterable[Call]) -> None:
        """Forgets calls that nobody waits for any more, in whatever stage they are."""
        flights = [self._flights.pop(call, None) for call in calls]
        self._pipeline.abandon([flight for flight in flights if flight is not None])

    def _begun(self, action: Action) -> list[Callable[[], Ended]]:
        """The action, in one batch or, where there is no memory for that, in smaller ones."""
        waiting, begun = [action.calls], []
        while waiting:
            calls = waiting.pop(0)
            try:
                begun.append(self._begin(action.stage, calls))
                continue
            except torch.OutOfMemoryError as error:
                fields = {"stage": action.stage, "frames": len(calls), "why": in_words(error)}
                log.error("out of memory: batches are smaller from now on", extra={"fields": fields})
            self._pipeline.runner.relieve()  # here, where the error does not hold up what the batch held any more
            smaller = max((size for size in self._buckets if size < len(calls)), default=1)
            self._shrink(smaller)
            if len(calls) > 1:
                waiting[:0] = [calls[n : n + smaller] for n in range(0, len(calls), smaller)]
            else:
                self.abandon(calls)
                begun.append(partial(dict, [(call, OutOfMemory(NO_MEMORY)) for call in calls]))
        return begun

    def _begin(self, stage: Stage, calls: Sequence[Call]) -> Callable[[], Ended]:
        if stage is Stage.DROP:
            return lambda: {call: DeadlineMissed(LATE) for call in calls}
        if stage is Stage.DRAW:
            drawn = [call for call in calls if isinstance(call, SynthesisCall)]
            return partial(dict, [(call, self._try(partial(self._pipeline.synthesize, call))) for call in drawn])
        if stage is Stage.ENCODE:
            return self._encode([call for call in calls if isinstance(call, FrameCall)])
        flights = [self._flights[call] for call in calls]
        found = self._try(partial(self._pipeline.step if stage is Stage.REFINE else self._pipeline.conclude, flights))
        if found is None:
            return dict
        if isinstance(found, LegatoError):
            return partial(self._end, calls, lambda: found)
        return partial(self._end, calls, found)

    def _encode(self, calls: Sequence[FrameCall]) -> Callable[[], Ended]:
        found = self._try(partial(self._pipeline.begin, [call.job for call in calls]))
        if isinstance(found, LegatoError):
            return lambda: dict.fromkeys(calls, found)
        ended: Ended = {}
        for call, begun in zip(calls, found, strict=True):
            (self._flights if isinstance(begun, Flight) else ended)[call] = begun
        return lambda: ended

    def _end(self, calls: Sequence[Call], land: Callable[[], Any]) -> Ended:
        found = self._try(land)
        self.abandon(calls)
        answers = [found] * len(calls) if isinstance(found, LegatoError) else found
        return dict(zip(calls, answers, strict=True))

    def _try(self, work: Callable[[], Any]) -> Any:
        """What it returns, or the LegatoError that it ended in. Raises OutOfMemoryError and DeviceLost."""

        def attempt() -> Any:
            with watched(self._pipeline.runner):
                return work()

        return guarded(attempt, through=(torch.OutOfMemoryError, DeviceLost))
