"""A stream and an engine in a few calls, to play a session with."""

from __future__ import annotations

from legato.options import DropReason, Policy, Settings
from legato.session import Session
from legato.types import FrameAnswer
from legato.work import FrameObserver, Outcome, Work


def session(
    policy: Policy = Policy.ORDERED,
    *,
    credits: int = 4,
    settings: Settings | None = None,
    observer: FrameObserver | None = None,
) -> Session:
    return Session(
        id="s", slot=3, model="m", policy=policy, settings=settings or Settings(), credits=credits, observer=observer
    )


def answer(seq: int, version: int = 1, psnr: float = 30.0) -> FrameAnswer:
    return FrameAnswer(seq, None, None, None, psnr, 0, version, {})


def told(s: Session) -> list[tuple[int, str]]:
    """Every answer that may leave now: seq and kind."""
    found = []
    while (work := s.next_answer()) is not None:
        kind = work.outcome
        found.append((work.seq, kind.value if isinstance(kind, DropReason) else type(kind).__name__))
    return found


def started(s: Session) -> list[Work]:
    """Every frame that may start now, handed to the engine."""
    found = []
    while (work := s.take()) is not None:
        work.submitted = True
        found.append(work)
    return found


def settings_of_all(s: Session) -> list[Settings]:
    """What every frame asked for, after running them all."""
    found = []
    while running := started(s):
        for work in running:
            found.append(work.settings)
            s.settle(work, answer(work.seq))
        told(s)
    return found


def seqs(works: list[Work]) -> list[int]:
    return [work.seq for work in works]


class Settled:
    """Observes frames: how many came in, and which settled."""

    def __init__(self) -> None:
        self.came_in = 0
        self.seqs: list[int] = []

    def received(self) -> None:
        self.came_in += 1

    def settled(self, work: Work, outcome: Outcome) -> None:
        self.seqs.append(work.seq)
