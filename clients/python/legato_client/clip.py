"""A clip through a session: one result for every frame, in order, whatever happens to single frames."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from legato_client.images import Picture
from legato_client.media import MediaError, Shot
from legato_client.report import Meter
from legato_client.session import Session
from legato_client.types import Answer, FrameResult


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """A frame's place in the clip with what stands there: its own result, or a neighbor's where `replaced`."""

    shot: Shot
    result: FrameResult
    replaced: bool


def through(session: Session, frames: Iterable[tuple[Shot, Picture]], meter: Meter) -> Iterator[Filled]:
    """Streams the frames through a fresh session and yields exactly one Filled for each, in order.

    A frame that failed or was dropped is replaced by the last good one; before the first good one, by that. Every
    answer goes through `meter`. Raises MediaError when no frame at all was answered, and what `frames` raises.
    """
    shots: deque[Shot] = deque()
    waiting: dict[int, Answer] = {}  # "latest" tells drops at once, ahead of earlier frames
    unfilled: list[Shot] = []
    good: FrameResult | None = None
    seq = 1

    def pictures() -> Iterator[Picture]:
        for shot, picture in frames:
            shots.append(shot)
            yield picture

    for arrived in session.stream(pictures()):
        meter.add(arrived)
        waiting[arrived.seq] = arrived
        while (answer := waiting.pop(seq, None)) is not None:
            seq += 1
            unfilled.append(shots.popleft())
            if isinstance(answer, FrameResult):
                yield from (Filled(shot, answer, replaced=True) for shot in unfilled[:-1])
                yield Filled(unfilled[-1], answer, replaced=False)
                good = answer
                unfilled.clear()
            elif good is not None:
                yield Filled(unfilled.pop(), good, replaced=True)
    if good is None:
        why = f": {meter.complaint}" if meter.complaint else ""
        raise MediaError(f"none of the {seq - 1} frames was answered{why}")


def paced(frames: Iterable[tuple[Shot, Picture]], tick: Fraction) -> Iterator[tuple[Shot, Picture]]:
    """The frames at their times, as a camera gives them: none before it is due."""
    begun = time.monotonic()
    for shot, picture in frames:
        time.sleep(max(0.0, begun + float(shot.pts * tick) - time.monotonic()))
        yield shot, picture
