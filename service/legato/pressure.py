"""Whether more comes in than can be answered in time. No torch here."""

from __future__ import annotations

from collections import deque

MIN_CALLS = 8  # fewer say nothing
MAX_CALLS = 1024  # that are remembered


class Pressure:
    """Counts over the last `seconds` which calls were answered in time, and which were late, dropped or refused."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._calls: deque[tuple[float, bool]] = deque()  # (when, in time), oldest first
        self._late = 0

    def add(self, now: float, *, in_time: bool) -> None:
        """A call was answered, dropped or refused."""
        self._calls.append((now, in_time))
        self._late += not in_time
        self._forget(now)

    def high(self, now: float) -> bool:
        """Whether more than half of the last calls were not answered in time."""
        self._forget(now)
        return len(self._calls) >= MIN_CALLS and 2 * self._late > len(self._calls)

    def _forget(self, now: float) -> None:
        while self._calls and (len(self._calls) > MAX_CALLS or self._calls[0][0] + self.seconds < now):
            self._late -= not self._calls.popleft()[1]
