"""The share of time that windows get."""

from __future__ import annotations

import math

import pytest

from legato.scheduler import Scheduler
from legato.spare import CREDIT_SECONDS, SpareTime, WindowTurns
from tests.tolerances import SHARE_OF_TIME


def test_work_takes_its_share_of_the_time_that_passes() -> None:
    spare, now, worked = SpareTime(0.25), 100.0, 0.0
    while now < 200.0:
        wait = spare.wait(now)
        if wait <= 0.0:
            spare.spent(0.01)
            worked, now = worked + 0.01, now + 0.01
        else:
            now += wait
    assert worked / 100.0 == pytest.approx(0.25, abs=SHARE_OF_TIME)


@pytest.mark.parametrize("busy", [0, 8, 20, 36])  # milliseconds of 40
def test_what_frames_take_is_not_shared(busy: int) -> None:
    spare, worked = SpareTime(0.5), 0.0
    for begin in range(0, 100_000, 40):
        spare.taken(busy / 1e3)
        for now in range(begin + busy, begin + 40):
            if spare.wait(now / 1e3) <= 0.0:
                spare.spent(1e-3)
                worked += 1e-3
    assert worked / 100.0 == pytest.approx(0.5 * (1.0 - busy / 40), abs=SHARE_OF_TIME)


def test_a_long_rest_saves_up_a_little_only() -> None:
    spare = SpareTime(0.5)
    assert spare.wait(0.0) == 0.0
    spare.wait(1000.0)
    spare.spent(CREDIT_SECONDS + 0.1)
    assert spare.wait(1000.0) == pytest.approx(0.2)


def test_no_share_never_allows() -> None:
    assert SpareTime(0.0).wait(5.0) == math.inf


class Streams:
    improves = owes = False


class Queue(Scheduler):
    """What it leaves, and whether it is overloaded, is told to it."""

    left, pressed = math.inf, False

    def room(self, now: float) -> float:
        return self.left

    def overloaded(self, now: float) -> bool:
        return self.pressed


@pytest.fixture
def streams() -> Streams:
    return Streams()


@pytest.fixture
def queue() -> Queue:
    return Queue(capacity=1, buckets=(1,), max_wait=0.0)


def test_a_step_is_taken_where_something_is_to_do_and_time_is_left(streams: Streams, queue: Queue) -> None:
    turns = WindowTurns(0.5, streams, queue)
    assert (turns.wait(0.0), turns.due(0.0, idle=True, alone=True)) == (math.inf, False)
    streams.improves = True
    assert (turns.wait(0.0), turns.due(0.0, idle=False, alone=True)) == (0.0, False)
    assert turns.due(0.0, idle=True, alone=True)
    turns.took(CREDIT_SECONDS + 0.1, 0.0)
    assert turns.wait(0.0) == pytest.approx(0.2)
    assert not turns.due(0.1, idle=True, alone=True)
    assert turns.due(0.3, idle=True, alone=True)


def test_a_step_that_would_make_a_frame_late_is_not_taken(streams: Streams, queue: Queue) -> None:
    turns = WindowTurns(1.0, streams, queue)
    streams.improves, queue.left = True, 0.02
    assert turns.due(0.0, idle=True, alone=True), "nobody knows yet how long it takes"
    turns.took(0.03, 0.1)
    assert (turns.wait(1.0), turns.due(1.0, idle=True, alone=True)) == (math.inf, False)
    assert turns.due(60.0, idle=True, alone=True), "one that took long is not held against the others for ever"
    queue.left = 0.04
    assert turns.due(1.0, idle=True, alone=True)


def test_a_step_that_a_stream_asked_for_is_taken_unless_the_engine_is_overloaded(
    streams: Streams, queue: Queue
) -> None:
    turns = WindowTurns(0.5, streams, queue)
    streams.improves = streams.owes = True
    queue.left = 0.0
    assert turns.due(0.0, idle=False, alone=False)
    turns.took(100.0, 0.0)
    queue.pressed = True
    assert not turns.due(0.0, idle=False, alone=False)
    assert turns.due(0.0, idle=False, alone=True), "nobody waits"
    streams.owes, queue.left = False, math.inf
    assert turns.due(0.1, idle=True, alone=True), "it was not paid from the share"
