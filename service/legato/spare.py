"""How much of the engine's time goes to streams' windows, and when. No torch here."""

from __future__ import annotations

import math
from typing import Protocol

from legato.calls import CallQueue
from legato.costs import Costs

CREDIT_SECONDS = 0.25  # that may be saved up
MOMENT = 1e-4  # seconds that are not waited for
STEP = "window"


class SpareTime:
    """Allows work for a share of the time in which nothing else is done.

    A share of all time would take what frames leave, and more: they would queue, and be late.

    Args:
        share: 0..1; 0 allows none.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._credit = 0.0
        self._seen = -math.inf  # monotonic seconds

    def wait(self, now: float) -> float:
        """Seconds until work is allowed: 0 where it is, inf where it never is."""
        if self._share <= 0.0:
            return math.inf
        if now > self._seen:
            gained = (now - self._seen) * self._share if self._seen > -math.inf else CREDIT_SECONDS
            self._credit = min(CREDIT_SECONDS, self._credit + gained)
            self._seen = now
        wait = -self._credit / self._share
        return wait if wait > MOMENT else 0.0

    def taken(self, seconds: float) -> None:
        """Frames took so long, which is not there to be shared. Told before the next `wait`."""
        self._seen += seconds

    def spent(self, seconds: float) -> None:
        """Work took so long."""
        self._credit -= seconds


class Streams(Protocol):
    """What has windows."""

    @property
    def improves(self) -> bool: ...
    @property
    def owes(self) -> bool: ...


class WindowTurns:
    """When a window has a step. The user holds the queue's lock.

    One that a stream asked for: after any action, unless that is one too many for an overloaded engine. Any other:
    where the engine is idle, in its share of the time, and makes no frame late by what steps have cost lately.

    Args:
        share: as SpareTime's.
        streams: tell whether a window has something to do, and whether a stream has asked for it.
        queue: tells what comes.
    """

    def __init__(self, share: float, streams: Streams, queue: CallQueue) -> None:
        self._spare, self._streams, self._queue = SpareTime(share), streams, queue
        self._owed = False
        self._costs = Costs((1,))

    def wait(self, now: float) -> float:
        """Seconds until an idle engine may take a step; inf where it may not unless a frame comes first."""
        self._costs.forget(now)
        if not self._streams.improves or self._queue.room(now) < self._costs.of(STEP, 1):
            return math.inf
        return self._spare.wait(now)

    def due(self, now: float, *, idle: bool, alone: bool) -> bool:
        """Whether to take a step now; `alone`: no action is under way."""
        self._owed = self._streams.owes and (alone or not self._queue.overloaded(now))
        return self._owed or (idle and self.wait(now) <= 0.0)

    def taken(self, seconds: float) -> None:
        """Frames took so long."""
        self._spare.taken(seconds)

    def took(self, seconds: float, now: float) -> None:
        """The step that was due took so long, until now."""
        self._costs.add(STEP, 1, seconds, now)
        if not self._owed:
            self._spare.spent(seconds)
