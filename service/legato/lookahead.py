"""Which calls would be late if the device did something else first, and how long it may. No torch here."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from legato.calls import Call, Stage
from legato.costs import Costs

USUAL = 0.4  # quantile of costs by which frames are given up: a slow one or two do not make all others late
MARGIN = 0.25  # of the time that a frame has: frames do not come on the dot, and not all time is the device's
BEGIN = (Stage.ENCODE, Stage.DRAW)  # first stages


@dataclass(slots=True, eq=False)
class Entry:
    """A call that waits or is in flight."""

    call: Call
    lane: int  # its slot; calls of slot -1 have a negative number of their own
    due: float  # monotonic seconds; orders the calls
    order: int  # of submission; breaks ties
    since: float  # monotonic seconds at which the call came in
    deadline: float  # monotonic seconds; the call's own, or when the next one overtakes it if that is sooner
    stage: Stage  # what it needs next
    left: int  # refine steps that it may still take
    running: bool = False  # in an action that has not ended


@dataclass(frozen=True, slots=True)
class Expected:
    """The next frame of a slot, as far as its last ones tell."""

    arrival: float  # monotonic seconds
    deadline: float
    call: Call  # the last one


def rank(entry: Entry) -> tuple[float, int]:
    """Orders calls by urgency."""
    return entry.due, entry.order


def made_late(costs: Costs, now: float, entries: Collection[Entry]) -> list[Entry]:
    """Who is late after the next refine step.

    Of those that do not want one, only those whose deadline could be met: others would be late in any case. What has to
    be done for all, encoding and synthesis, is done in batches by rank.
    """
    step = costs.of(Stage.REFINE, costs.bucket(sum(entry.stage is Stage.REFINE for entry in entries)))
    late = []
    ranked = sorted(entries, key=rank)
    while ranked:
        size = costs.bucket(len(ranked))
        group, ranked = ranked[:size], ranked[size:]
        for index, entry in enumerate(group):
            new = entry.stage in BEGIN
            beside = [e for i, e in enumerate(group) if i <= index or new or e.stage not in BEGIN]
            ends = now + _work(costs, beside)
            if ends + step > entry.deadline and (entry.stage is Stage.REFINE or could_be_in_time(costs, entry)):
                late.append(entry)
        now += _work(costs, group)
    return late


def could_be_in_time(costs: Costs, entry: Entry) -> bool:
    """Whether its deadline leaves time for a call that runs alone and at once, and takes what is usual."""
    alone = costs.of(Stage.DRAW, 1, USUAL)
    if entry.call.stage is Stage.ENCODE:
        alone = costs.of(Stage.ENCODE, 1, USUAL) + costs.of(Stage.SYNTHESIZE, entry.call.images, USUAL)
    return entry.since + alone <= entry.deadline


def room(costs: Costs, now: float, frames: Collection[Expected]) -> float:
    """Seconds that other work may take from now on without making one of these late, or taking a step from it.

    Each is counted as if it ran alone, and as if it had MARGIN less time. For one that will be late in any case the
    other work ends before it comes.
    """
    found, free, taken = math.inf, now, 0.0
    for frame in sorted(frames, key=lambda each: each.deadline):
        allowed = frame.deadline - frame.arrival
        seconds = _alone(costs, frame.call, allowed)
        free, taken = max(free, frame.arrival) + seconds, taken + seconds
        latest = frame.deadline - MARGIN * allowed - taken if free <= frame.deadline else frame.arrival
        found = min(found, latest - now)
    return found


def _alone(costs: Costs, call: Call, allowed: float) -> float:
    """Seconds of a frame that runs alone, with the steps that it has time for."""
    least = costs.of(Stage.ENCODE, 1) + costs.of(Stage.SYNTHESIZE, call.images)
    step = costs.of(Stage.REFINE, 1)
    return least + (min(call.steps, max(0, math.floor((allowed - least) / step))) * step if step else 0.0)


def _work(costs: Costs, group: Collection[Entry]) -> float:
    """Seconds until these calls are answered, if no step is taken."""
    images = [entry.call.images for entry in group if entry.stage is not Stage.DRAW]
    seconds = (len(group) - len(images)) * costs.of(Stage.DRAW, 1) + costs.total(Stage.SYNTHESIZE, images)
    return seconds + costs.total(Stage.ENCODE, [1 for entry in group if entry.stage is Stage.ENCODE])
