"""How much of the engine's time goes to streams' windows. No torch here."""

from __future__ import annotations

import math

CREDIT_SECONDS = 0.25  # that may be saved up
MOMENT = 1e-4  # seconds that are not waited for


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
