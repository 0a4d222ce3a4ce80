"""What runs next: bounded, earliest deadline first over all stages, frames of many ages in one refine batch.

Pure decisions: no threads, no clock and no torch here. The caller passes `now` (monotonic seconds) and holds the lock.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Collection, Sequence

from legato.calls import Action, Call, Stage
from legato.costs import Costs
from legato.errors import ConfigError, Overloaded
from legato.lookahead import BEGIN, USUAL, Entry, Expected, could_be_in_time, made_late, rank, room
from legato.pressure import Pressure

PACE = 0.2  # of a running mean, the weight of what is new
UNHURRIED = 2.0  # frame periods that a frame without a deadline may take
HORIZON = 4  # so many times the largest batch are looked ahead


class Scheduler:
    """A bounded queue of calls, and those that are in flight between their stages.

    **Order.** The stage of the most urgent call runs, with the most urgent calls of that stage. A deadline counts for
    at most `patience` seconds from the call's arrival, and never as if it had passed before the arrival: whatever comes
    later than `patience` after a call therefore ranks behind it, and nothing starves. A call that takes the place of
    one that was taken back or dropped keeps its rank, so that a session whose frames are overtaken by newer ones gets
    its turn. Of each slot one call at a time is in flight, in the order in which they came.

    **Batches** are the largest bucket that can be filled, so none is padded and each has a size that was warmed up.
    While nothing is in flight, the first stage waits for company: until a batch is full, or its oldest call has waited
    `max_wait`, or every slot that has sent something in the last `recent_seconds` has a call there.

    **Steps.** A frame takes another one if by what the stages cost it can still be answered before its deadline, with
    all that is more urgent done before it; one without a deadline takes all that it asked for. Frames that wait are
    encoded before the next step, to take it together, and a step that would make another call late lets that one go
    first. A droppable call has to be answered at the pace at which its slot sends them, too: the next one is about to
    overtake it. So under overload quality falls first. Then droppable calls that cannot be answered before their own
    deadline are dropped, except that a slot gets one answer per `patience` whatever its deadlines are. Then
    `overloaded` says that nobody new should come.

    Args:
        capacity: calls that may wait; one more is refused.
        buckets: batch sizes that may be formed, with 1 among them.
        max_wait: seconds that a call may wait for company.
        in_flight: frames between two of their stages, at most.
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
        in_flight: int = 32,
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
        if in_flight < 1:
            raise ConfigError(f"at least 1 frame is in flight; got {in_flight}", field="engine.in_flight")
        self.costs = Costs(buckets)
        self._capacity = capacity
        self._largest = buckets[-1]
        self._max_wait = max_wait
        self._in_flight = in_flight
        self._patience = patience
        self._recent_seconds = recent_seconds
        self._lanes: dict[int, deque[Entry]] = {}  # by slot; each call of slot -1 has a negative number of its own
        self._flying: dict[int, Entry] = {}  # by slot or number: calls that have begun
        self._last_seen: dict[int, float] = {}  # slot: monotonic seconds
        self._answered: dict[int, float] = {}  # slot: monotonic seconds of its last answer, or of its first call
        self._owed: dict[int, float] = {}  # slot: the due of a call that left without an answer
        self._paces: dict[int, float] = {}  # slot: running mean of the seconds between two of its calls
        self._asked: dict[int, tuple[float, float, Call]] = {}  # slot: when its last call came, its time, the call
        self._pressure = Pressure(patience)
        self._submitted = 0
        self._depth = 0

    def __len__(self) -> int:
        return self._depth

    @property
    def busy(self) -> bool:
        """Whether a call waits or is in flight."""
        return bool(self._depth or self._flying)

    def add(self, call: Call, now: float) -> None:
        """Queues a call; raises Overloaded (QUEUE_FULL) when the queue is full."""
        if self._depth >= self._capacity:
            self._pressure.add(now, in_time=False)
            raise Overloaded(
                f"the queue is full ({self._capacity} frames); send fewer frames at a time, or try again later",
                reason="QUEUE_FULL",
            )
        self._submitted += 1
        self._depth += 1
        lane, deadline = -self._submitted, call.deadline
        if call.slot >= 0:
            lane, pace = call.slot, self._pace(call.slot, now)
            if call.droppable:
                deadline = min(deadline, now + pace)
                if lane in self._flying:
                    self._flying[lane].deadline = now  # it is overtaken: no more steps
            self._answered.setdefault(lane, now)
            self._asked[lane] = now, deadline - now, call
        due = min(max(deadline, now), now + self._patience, self._owed.pop(lane, math.inf))
        entry = Entry(call, lane, due, self._submitted, now, deadline, call.stage, call.steps)
        self._lanes.setdefault(lane, deque()).append(entry)

    def next(self, now: float, *, flush: bool = False) -> Action | None:
        """What to do now, or None while it is better to wait; with `flush` it never waits. `done` ends the action."""
        self.costs.forget(now)
        flying = [entry for entry in self._flying.values() if not entry.running]
        heads = self._heads()
        if not flying and not (heads and (flush or self._ready(now))):
            return None
        room = self._in_flight - len(self._flying)
        able = sorted(flying + heads if room > 0 else flying, key=rank)
        while able and able[0].stage is Stage.REFINE:
            late = made_late(self.costs, now, {*able, *heads})
            own = [entry for entry in late if entry.stage is Stage.REFINE]
            others = [entry for entry in able if entry.stage is not Stage.REFINE]
            joining = [entry for entry in others if entry.stage is Stage.ENCODE]
            if own or (late and not others):
                for entry in own or able[:1]:
                    entry.stage, entry.left = Stage.SYNTHESIZE, 0
            elif able[0].since + self._patience <= now or not (late or joining):
                break  # the step is taken
            else:
                able = others if late else joining
        return self._form(now, [entry for entry in able if entry.stage is able[0].stage], room) if able else None

    def done(self, action: Action, now: float, seconds: float, *, ended: Collection[Call] = ()) -> list[Call]:
        """The action took `seconds`, 0 where it failed. Its calls move on, but for those that `ended` in an error.

        Gives back the calls that have left, to be answered: those that were synthesized or ended, and whose slot was
        not forgotten meanwhile. Those that were dropped have left already.
        """
        if action.stage is Stage.DROP:
            return list(action.calls)
        if seconds > 0.0 and action.load:
            self.costs.add(action.stage, action.load, seconds, now)
        left = []
        for entry in [entry for entry in self._flying.values() if entry.call in action.calls]:
            entry.running = False
            entry.left -= action.stage is Stage.REFINE
            entry.stage = Stage.REFINE if entry.left > 0 else Stage.SYNTHESIZE
            if entry.call in ended or action.stage in (Stage.SYNTHESIZE, Stage.DRAW):
                del self._flying[entry.lane]
                if entry.lane >= 0:
                    self._answered[entry.lane] = now
                in_time = now <= entry.call.deadline or not could_be_in_time(self.costs, entry)
                self._pressure.add(now, in_time=in_time)
                left.append(entry.call)
        return left

    def seed(self, stage: Stage, size: int, seconds: float) -> None:
        """What a stage costs while nothing else was measured; the size of a synthesis is its images."""
        self.costs.seed(stage, size, seconds)

    def shrink(self, largest: int) -> None:
        """Forms no batch larger than this bucket any more."""
        self._largest = min(self._largest, largest)
        self.costs.shrink(largest)

    def wake_time(self, now: float) -> float:
        """When `next` has something to give if nothing else comes in; math.inf while there is nothing."""
        if any(not entry.running for entry in self._flying.values()):
            return now
        waiting = [lane[0].since for slot, lane in self._lanes.items() if slot not in self._flying]
        if not waiting or len(self._flying) >= self._in_flight:
            return math.inf
        return now if self._ready(now) else min(waiting) + self._max_wait

    def room(self, now: float) -> float:
        """Seconds of other work that make no frame late which is about to come; inf while nobody sends.

        Frames are expected at the pace at which their slots have sent the last ones; for a while after that, at once.
        One is late after its deadline, and after UNHURRIED periods of its slot in any case: from then on they queue.
        """
        frames = []
        for slot, (came, allowed, call) in self._asked.items():
            at, allowed = came + self._paces[slot], min(allowed, UNHURRIED * self._paces[slot])
            if now <= at + allowed < math.inf:
                frames.append(Expected(max(at, now), max(at, now) + allowed, call))
        return room(self.costs, now, frames)

    def overloaded(self, now: float) -> bool:
        """Whether more than half of the last calls were refused, dropped, or late without need."""
        return self._pressure.high(now)

    def cancel(self, slot: int, seq: int) -> Call | None:
        """Takes a waiting call back; None when it is not waiting (any more)."""
        for lane in [slot] if slot >= 0 else [lane for lane in self._lanes if lane < 0]:
            for entry in self._lanes.get(lane, ()):
                if entry.call.seq == seq:
                    self._leave_unanswered(entry)
                    return entry.call
        return None

    def forget(self, slot: int) -> list[Call]:
        """Removes a slot; gives back what waited for it and what was in flight."""
        for known in (self._last_seen, self._answered, self._owed, self._paces):
            known.pop(slot, None)
        self._asked.pop(slot, None)
        waited = [entry.call for entry in self._lanes.pop(slot, ())]
        self._depth -= len(waited)
        begun = self._flying.pop(slot, None)
        return [begun.call, *waited] if begun else waited

    def drain(self) -> list[Call]:
        """Empties everything; gives back all that waited or was in flight, in the order of submission."""
        entries = [entry for lane in self._lanes.values() for entry in lane] + list(self._flying.values())
        self._lanes.clear()
        self._flying.clear()
        self._depth = 0
        return [entry.call for entry in sorted(entries, key=lambda entry: entry.order)]

    def _pace(self, slot: int, now: float) -> float:
        """Seconds from a slot's call to its next one, as it has been so far; inf after a silence."""
        gap = now - self._last_seen.get(slot, -math.inf)
        known = self._paces.get(slot, math.inf)
        self._last_seen[slot] = now
        self._paces[slot] = gap if math.isinf(known) or math.isinf(gap) else known + PACE * (gap - known)
        return self._paces[slot]

    def _heads(self) -> list[Entry]:
        """The most urgent calls that may begin: the first of each slot that has none in flight."""
        first = (lane[0] for slot, lane in self._lanes.items() if slot not in self._flying)
        return heapq.nsmallest(HORIZON * self._largest, first, key=rank)

    def _ready(self, now: float) -> bool:
        """Whether the calls that wait need not wait for company."""
        if self._flying or len(self._lanes) >= self._largest:
            return True
        if min(lane[0].since for lane in self._lanes.values()) + self._max_wait <= now:
            return True
        self._last_seen = {s: seen for s, seen in self._last_seen.items() if seen + self._recent_seconds > now}
        return all(slot in self._lanes for slot in self._last_seen)

    def _form(self, now: float, entries: list[Entry], room: int) -> Action:
        """The action on the first of these, all of one stage."""
        stage = entries[0].stage
        begin = stage in BEGIN
        size = 1 if stage is Stage.DRAW else self.costs.bucket(min(len(entries), room) if begin else len(entries))
        batch = entries[:size]
        if lost := [entry for entry in batch if stage is Stage.ENCODE and self._lost(entry, now, batch)]:
            for entry in lost:
                self._leave_unanswered(entry)
                self._pressure.add(now, in_time=not could_be_in_time(self.costs, entry))
            return Action(Stage.DROP, tuple(entry.call for entry in lost))
        for entry in batch:
            if begin:
                self._remove(entry)
                self._flying[entry.lane] = entry
            entry.running = True
        return Action(stage, tuple(entry.call for entry in batch))

    def _lost(self, entry: Entry, now: float, batch: Sequence[Entry]) -> bool:
        """Whether a call is dropped: it cannot be in time in this batch, and its slot had its answer."""
        images = sum(each.call.images for each in batch)
        ends = now + self.costs.of(Stage.ENCODE, len(batch), USUAL) + self.costs.of(Stage.SYNTHESIZE, images, USUAL)
        had = self._answered.get(entry.lane, -math.inf) + self._patience > now
        return entry.call.droppable and had and ends > entry.call.deadline

    def _leave_unanswered(self, entry: Entry) -> None:
        self._remove(entry)
        if entry.lane >= 0:
            self._owed[entry.lane] = min(entry.due, self._owed.get(entry.lane, math.inf))

    def _remove(self, entry: Entry) -> None:
        self._depth -= 1
        self._lanes[entry.lane].remove(entry)
        if not self._lanes[entry.lane]:
            del self._lanes[entry.lane]
