"""Which calls would be late if the device did something else first. No torch here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from legato.calls import Call, Stage
from legato.costs import Costs

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
    """Whether its deadline leaves time for a call that runs alone and at once."""
    alone = costs.of(Stage.DRAW, 1)
    if entry.call.stage is Stage.ENCODE:
        alone = costs.of(Stage.ENCODE, 1) + costs.of(Stage.SYNTHESIZE, entry.call.images)
    return entry.since + alone <= entry.deadline


def _work(costs: Costs, group: Collection[Entry]) -> float:
    """Seconds until these calls are answered, if no step is taken."""
    images = [entry.call.images for entry in group if entry.stage is not Stage.DRAW]
    seconds = (len(group) - len(images)) * costs.of(Stage.DRAW, 1) + costs.total(Stage.SYNTHESIZE, images)
    return seconds + costs.total(Stage.ENCODE, [1 for entry in group if entry.stage is Stage.ENCODE])
