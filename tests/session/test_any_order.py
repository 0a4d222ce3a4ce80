"""A session keeps its promises whatever happens in whatever order."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from legato.errors import InvalidImage
from legato.options import DropReason, Policy
from legato.session import RUNNING
from legato.work import Failed, Work
from tests.session.play import Settled, answer, session, started, told


class Driver:
    """A session, a pretended engine and a client, driven by the names of actions."""

    def __init__(self, policy: Policy, credits: int) -> None:
        self.seen = Settled()
        self.session = session(policy, credits=credits, observer=self.seen)
        self.engine: list[Work] = []
        self.results: list[int] = []
        self.sent = 0

    def frame(self) -> None:
        self.sent += 1
        self.session.receive(self.sent, None, 0.0)

    def bad_frame(self) -> None:
        self.sent += 1
        self.session.fail(self.sent, InvalidImage("no"), 0.0)

    def take(self) -> None:
        self.engine += started(self.session)
        assert len(self.engine) <= RUNNING

    def answer(self) -> None:
        if self.engine:
            work = self.engine.pop(0)
            self.session.settle(work, answer(work.seq))

    def failure(self) -> None:
        if self.engine:
            self.session.settle(self.engine.pop(0), Failed("X", "x"))

    def tell(self) -> None:
        self.results += [seq for seq, kind in told(self.session) if kind == "FrameAnswer"]

    def cancel(self) -> None:
        for work in self.session.passed_over()[:1]:
            self.engine.remove(work)
            self.session.settle(work, DropReason.STALE)

    def cut(self) -> None:
        for work in self.session.detach():
            self.engine.remove(work)
            self.session.settle(work, DropReason.DISCONNECTED)
        self.session.attach(self.sent, math.inf)

    def finish(self) -> None:
        while not self.session.finished:
            self.take()
            self.answer()
            self.tell()


ACTIONS = ["frame", "bad_frame", "take", "answer", "failure", "tell", "cancel", "cut"]


@given(st.lists(st.sampled_from(ACTIONS), max_size=80), st.sampled_from(list(Policy)), st.integers(1, 4))
def test_every_frame_settles_once_and_answers_never_go_back(actions: list[str], policy: Policy, credits: int) -> None:
    """Whatever happens in whatever order: one outcome a frame, results in order, bounded work."""
    driver = Driver(policy, credits)
    for action in actions:
        getattr(driver, action)()
    driver.finish()
    stats = driver.session.stats
    assert sorted(driver.seen.seqs) == list(range(1, driver.sent + 1))
    assert driver.results == sorted(set(driver.results))
    assert stats.received == stats.completed + stats.failed + stats.dropped == driver.sent == driver.seen.came_in
