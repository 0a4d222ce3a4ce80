"""What a stage costs, as measured: a moving quantile of the seconds per (stage, batch size). No torch here."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence


class Costs:
    """Seconds that a batch of a stage takes, by its size: images of a synthesis, calls of another stage.

    A figure is a quantile of what was measured in the last `memory` seconds, at most `window` values. Older ones
    are forgotten, so that a slow moment does not keep a stage from being tried again: then the seed counts, which is
    what the warm-up measured.

    Args:
        buckets: batch sizes that are run, increasing, with 1 among them.
        quantile: the fraction of measured batches that took no longer than the figure, unless another one is asked for.
        window: values that are kept of each stage and size.
        memory: seconds after which a value is forgotten.
    """

    def __init__(
        self, buckets: Sequence[int], *, quantile: float = 0.9, window: int = 64, memory: float = 10.0
    ) -> None:
        self._buckets = tuple(buckets)
        self._quantile = quantile
        self._window = window
        self._memory = memory
        self._sizes: dict[str, list[int]] = {}  # of each stage those that a figure was ever known of, increasing
        self._seeds: dict[tuple[str, int], float] = {}
        self._measured: dict[tuple[str, int], deque[tuple[float, float]]] = {}  # (when, seconds), oldest first
        self._ranked: dict[tuple[str, int], list[float]] = {}  # seconds of `_measured` as it is, rising

    def shrink(self, largest: int) -> None:
        """Batches larger than this are not run any more."""
        self._buckets = tuple(size for size in self._buckets if size <= largest)

    def seed(self, stage: str, size: int, seconds: float) -> None:
        """What counts while nothing else was measured."""
        self._seeds[stage, size] = seconds
        self._know(stage, size)

    def add(self, stage: str, size: int, seconds: float, now: float) -> None:
        """A batch took `seconds`."""
        values = self._measured.setdefault((stage, size), deque(maxlen=self._window))
        values.append((now, seconds))
        self._ranked.pop((stage, size), None)
        self._know(stage, size)

    def forget(self, now: float) -> None:
        """Forgets what is too old at `now`."""
        for key, values in self._measured.items():
            while values and values[0][0] + self._memory < now:
                values.popleft()
                self._ranked.pop(key, None)

    def bucket(self, count: int) -> int:
        """The largest batch size that `count` >= 1 calls fill."""
        return self._buckets[bisect_right(self._buckets, count) - 1]

    def of(self, stage: str, size: int, quantile: float | None = None) -> float:
        """Seconds of one batch. A size that was never run costs what the next smaller one does, in proportion; 0
        where nothing is known."""
        sizes = self._sizes.get(stage, [])
        for known in reversed(sizes[: bisect_right(sizes, size)]):
            found = self._figure(stage, known, self._quantile if quantile is None else quantile)
            if found is not None:
                return found * size / known
        return 0.0

    def total(self, stage: str, sizes: Sequence[int]) -> float:
        """Seconds of calls that each add so much to their batch's size, in the largest batches that they fill."""
        seconds, first = 0.0, 0
        while first < len(sizes):
            last = first + self.bucket(len(sizes) - first)
            seconds += self.of(stage, sum(sizes[first:last]))
            first = last
        return seconds

    def _know(self, stage: str, size: int) -> None:
        sizes = self._sizes.setdefault(stage, [])
        if size not in sizes:
            insort(sizes, size)

    def _figure(self, stage: str, size: int, quantile: float) -> float | None:
        values = self._measured.get((stage, size))
        if not values:
            return self._seeds.get((stage, size))
        if (stage, size) not in self._ranked:
            self._ranked[stage, size] = sorted(seconds for _, seconds in values)
        ranked = self._ranked[stage, size]
        return ranked[min(int(quantile * len(ranked)), len(ranked) - 1)]
