"""How long the device may do something else: until the next frames of those who have a deadline."""

from __future__ import annotations

import math

import pytest

from legato.calls import Stage
from legato.lookahead import MARGIN
from legato.scheduler import Scheduler
from tests.scheduler.machine import call, scheduler, seconds, seeded

PERIOD = 0.04
ALONE = seconds(Stage.ENCODE, 1) + seconds(Stage.SYNTHESIZE, 1)
STEP = seconds(Stage.REFINE, 1)
SPARED = MARGIN * PERIOD


def sent(queue: Scheduler, slot: int, times: list[float], allowed: float = PERIOD, **more: object) -> None:
    """Frames of a slot, each answered at once."""
    for seq, now in enumerate(times, 1):
        queue.add(call(slot, seq, now + allowed, **more), now)  # type: ignore[arg-type]
        while (action := queue.next(now, flush=True)) is not None:
            queue.done(action, now, 0.0)


def test_nobody_leaves_all_the_time() -> None:
    queue = seeded(scheduler())
    assert queue.room(0.0) == math.inf
    sent(queue, -1, [0.0, 0.04, 0.08], 0.01)
    sent(queue, 1, [0.08], 0.01)
    assert queue.room(0.09) == math.inf, "without a session, without a pace"


@pytest.mark.parametrize("deadline", [1.0, math.inf])
def test_one_that_does_not_hurry_may_take_two_periods(deadline: float) -> None:
    queue = seeded(scheduler())
    sent(queue, 0, [0.0, 0.04, 0.08], deadline)
    assert queue.room(0.1) == pytest.approx(0.02 + 2 * PERIOD - ALONE - 2 * SPARED)


@pytest.mark.parametrize(
    ("steps", "busy"), [(0, ALONE), (1, ALONE + STEP), (2, ALONE + 2 * STEP), (9, ALONE + 3 * STEP)]
)
def test_a_frame_and_its_steps_are_in_time_after_it(steps: int, busy: float) -> None:
    queue = seeded(scheduler())
    sent(queue, 0, [0.0, 0.04, 0.08], steps=steps)
    assert queue.room(0.1) == pytest.approx(0.06 - busy - SPARED)


def test_one_that_is_overtaken_is_expected_at_its_pace() -> None:
    queue = seeded(scheduler())
    sent(queue, 0, [0.0, 0.04, 0.08], 1.0, droppable=True)
    assert queue.room(0.1) == pytest.approx(0.06 - ALONE - SPARED)


def test_frames_of_many_come_one_after_the_other() -> None:
    queue = seeded(scheduler())
    for slot in range(3):
        sent(queue, slot, [0.0, 0.04, 0.08])
    assert queue.room(0.1) == pytest.approx(0.06 - 3 * ALONE - SPARED)
    queue.forget(1)
    assert queue.room(0.1) == pytest.approx(0.06 - 2 * ALONE - SPARED)


def test_one_that_is_late_in_any_case_finds_nothing_before_it() -> None:
    queue = seeded(scheduler())
    sent(queue, 0, [0.0, 0.04, 0.08], ALONE / 2)
    assert queue.room(0.1) == pytest.approx(0.02)


def test_who_has_gone_silent_is_not_waited_for() -> None:
    queue = seeded(scheduler())
    sent(queue, 0, [0.0, 0.04, 0.08])
    assert queue.room(0.15) == pytest.approx(PERIOD - ALONE - SPARED), "it may come at any moment"
    assert queue.room(0.17) == math.inf
