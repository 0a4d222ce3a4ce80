"""Who goes into the next batch: bounded, earliest deadline first, one call of a slot at a time.

Pure decisions: no threads, no clock and no torch here. The caller passes `now` (monotonic seconds) and holds the lock.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from legato.calls import Call
from legato.errors import ConfigError, Overloaded


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    call: Call
    due: float  # monotonic seconds; orders the slots
    order: int  # of submission; breaks ties
    since: float  # monotonic seconds at which the call came in


class Scheduler:
    """A bounded queue that forms batches.

    Calls of one slot leave in the order in which they came, never two in one batch. Across slots the earliest deadline
    goes first. A deadline counts for at most `patience` seconds from the call's arrival, and never as if it had passed
    before the arrival: whatever comes later than `patience` after a call therefore ranks behind it, and nothing
    starves.

    A batch is formed when it is full, when its oldest call has waited `max_wait`, or at once when every slot that has
    sent something in the last `recent_seconds` already has a call waiting: nobody is left to wait for.

    Args:
        capacity: calls that may wait; one more is refused.
        buckets: batch sizes that may be formed, with 1 among them. A batch is the largest bucket that can be filled,
            so no batch is padded and each has a size that was warmed up.
        max_wait: seconds that a call may wait for company.
        patience: seconds after which a call ranks before everything that is new.
        recent_seconds: a slot that was silent for this long is not waited for.

    Raises:
        ConfigError: a bound is not positive, or buckets are not increasing sizes that begin with 1.
    """

    def __init__(
        self,
        *,
        capacity: int,
        buckets: Sequence[int],
        max_wait: float,
        patience: float = 1.0,
        recent_seconds: float = 0.25,
    ) -> None:
        if capacity < 1:
            raise ConfigError(f"the queue holds at least 1 call; got {capacity}", field="engine.queue_size")
        if list(buckets) != sorted(set(buckets)) or not buckets or buckets[0] != 1:
            raise ConfigError(
                f"batch buckets are increasing sizes that begin with 1, as 1,2,4; got {list(buckets)}",
                field="engine.batch_buckets",
            )
        if not (math.isfinite(max_wait) and max_wait >= 0 and patience > 0):
            raise ConfigError(
                f"max_wait is finite and >= 0 seconds, patience > 0; got {max_wait} and {patience}",
                field="engine.max_wait_seconds",
            )
        self._capacity = capacity
        self._buckets = tuple(buckets)
        self._max_wait = max_wait
        self._patience = patience
        self._recent_seconds = recent_seconds
        self._lanes: dict[int, deque[_Entry]] = {}  # by slot; each call of slot -1 has a negative number of its own
        self._last_seen: dict[int, float] = {}  # slot: monotonic seconds
        self._submitted = 0
        self._depth = 0

    def __len__(self) -> int:
        return self._depth

    def add(self, call: Call, now: float) -> None:
        """Queues a call; raises Overloaded (QUEUE_FULL) when the queue is full."""
        if self._depth >= self._capacity:
            raise Overloaded(
                f"the queue is full ({self._capacity} frames); send fewer frames at a time, or try again later",
                reason="QUEUE_FULL",
            )
        self._submitted += 1
        self._depth += 1
        due = min(max(call.deadline, now), now + self._patience)
        lane = call.slot if call.slot >= 0 else -self._submitted
        self._lanes.setdefault(lane, deque()).append(_Entry(call, due, self._submitted, now))
        if call.slot >= 0:
            self._last_seen[call.slot] = now

    def take(self, now: float, *, flush: bool = False) -> list[Call]:
        """The next batch, or an empty list while it is better to wait; with `flush` it never waits."""
        if not self._lanes or not (flush or self._ready(now)):
            return []
        size = max(bucket for bucket in self._buckets if bucket <= len(self._lanes))
        heads = heapq.nsmallest(size, self._lanes.items(), key=lambda item: (item[1][0].due, item[1][0].order))
        batch = [(lane, entries[0]) for lane, entries in heads]
        for lane, entry in batch:
            self._remove(lane, entry)
        return [entry.call for _, entry in batch]

    def wake_time(self, now: float) -> float:
        """When `take` has something to give if nothing else comes in; math.inf while the queue is empty."""
        if not self._lanes:
            return math.inf
        return now if self._ready(now) else self._oldest() + self._max_wait

    def cancel(self, slot: int, seq: int) -> Call | None:
        """Takes a waiting call back; None when it is not waiting (any more)."""
        for lane in [slot] if slot >= 0 else [lane for lane in self._lanes if lane < 0]:
            for entry in self._lanes.get(lane, ()):
                if entry.call.seq == seq:
                    self._remove(lane, entry)
                    return entry.call
        return None

    def forget(self, slot: int) -> list[Call]:
        """Removes a slot; gives back what still waited for it."""
        self._last_seen.pop(slot, None)
        entries = self._lanes.pop(slot, deque())
        self._depth -= len(entries)
        return [entry.call for entry in entries]

    def drain(self) -> list[Call]:
        """Empties the queue; gives back all that waited, in the order of submission."""
        entries = sorted((entry for lane in self._lanes.values() for entry in lane), key=lambda entry: entry.order)
        self._lanes.clear()
        self._depth = 0
        return [entry.call for entry in entries]

    def _ready(self, now: float) -> bool:
        if len(self._lanes) >= self._buckets[-1] or self._oldest() + self._max_wait <= now:
            return True
        self._last_seen = {s: seen for s, seen in self._last_seen.items() if seen + self._recent_seconds > now}
        return all(slot in self._lanes for slot in self._last_seen)

    def _oldest(self) -> float:
        return min(entries[0].since for entries in self._lanes.values())

    def _remove(self, lane: int, entry: _Entry) -> None:
        self._lanes[lane].remove(entry)
        self._depth -= 1
        if not self._lanes[lane]:
            del self._lanes[lane]
