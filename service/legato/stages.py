"""Runs the scheduler's actions on the pipeline, and knows which frame in flight belongs to which call."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

from legato.calls import Action, Call, FrameCall, Stage, SynthesisCall, guarded
from legato.errors import DeadlineMissed, LegatoError
from legato.flights import Flight
from legato.pipeline import Pipeline
from legato.turns import Turns

LATE = "this frame could not be answered before its deadline, so it was not begun"


class Stages:
    """Belongs to the pipeline's thread. `turns` are those of all that compute on its device."""

    def __init__(self, pipeline: Pipeline, turns: Turns | None = None) -> None:
        self._pipeline = pipeline
        self._turns = turns or Turns()
        self._flights: dict[Call, Flight] = {}

    def run(self, action: Action) -> dict[Call, Any]:
        """Does what the action says; the calls that end with it, each with its result or a LegatoError."""
        if action.stage is Stage.DROP:
            return {call: DeadlineMissed(LATE) for call in action.calls}
        with self._turns.turn():
            return self._compute(action)

    def improve(self) -> int:
        """A step of a stream's window, where nobody needs the device: of how many keyframes."""
        if self._turns.rest():
            return 0
        with self._turns.turn(urgent=False):
            return self._pipeline.improve()

    def abandon(self, calls: Iterable[Call]) -> None:
        """Forgets calls that nobody waits for any more, in whatever stage they are."""
        flights = [self._flights.pop(call, None) for call in calls]
        self._pipeline.abandon([flight for flight in flights if flight is not None])

    def _compute(self, action: Action) -> dict[Call, Any]:
        calls = action.calls
        if action.stage is Stage.DRAW:
            drawn = [call for call in calls if isinstance(call, SynthesisCall)]
            return {call: guarded(partial(self._pipeline.synthesize, call)) for call in drawn}
        if action.stage is Stage.ENCODE:
            return self._encode([call for call in calls if isinstance(call, FrameCall)])
        flights = [self._flights[call] for call in calls]
        work = self._pipeline.step if action.stage is Stage.REFINE else self._pipeline.finish
        found = guarded(partial(work, flights))
        if isinstance(found, LegatoError):
            found = [found] * len(calls)
        if found is None:
            return {}
        self.abandon(calls)
        return dict(zip(calls, found, strict=True))

    def _encode(self, calls: Collection[FrameCall]) -> dict[Call, Any]:
        found = guarded(partial(self._pipeline.begin, [call.job for call in calls]))
        if isinstance(found, LegatoError):
            return dict.fromkeys(calls, found)
        ended: dict[Call, Any] = {}
        for call, begun in zip(calls, found, strict=True):
            (self._flights if isinstance(begun, Flight) else ended)[call] = begun
        return ended
