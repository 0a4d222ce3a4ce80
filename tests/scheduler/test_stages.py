"""Frames of many ages in one refine batch: who joins, who leaves, which steps are taken."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.calls import Action, Stage
from legato.errors import ConfigError
from legato.scheduler import Scheduler
from tests.scheduler.machine import WAIT, Machine, call, names, scheduler, seconds, seeded

ALONE = seconds(Stage.ENCODE, 1) + seconds(Stage.SYNTHESIZE, 1)
STEP = seconds(Stage.REFINE, 1)
Told = tuple[Stage, list[tuple[int, int]]]


def told(action: Action | None) -> Told | None:
    return None if action is None else (action.stage, names(action.calls))


def run(queue: Scheduler, now: float) -> Told | None:
    """The next action, done at once."""
    action = queue.next(now)
    if action is not None:
        queue.done(action, now, 0.0)
    return told(action)


def test_a_frame_goes_through_its_stages() -> None:
    queue = scheduler()
    queue.add(call(0, 1, steps=2), 0.0)
    assert len(queue) == 1
    stages = []
    while (action := queue.next(0.0)) is not None:
        assert (len(queue), queue.busy) == (0, True)
        stages.append(action.stage)
        left = queue.done(action, 0.0, 0.001)
        assert names(left) == ([(0, 1)] if action.stage is Stage.SYNTHESIZE else [])
    assert stages == [Stage.ENCODE, Stage.REFINE, Stage.REFINE, Stage.SYNTHESIZE]
    assert not queue.busy


def test_one_that_comes_later_joins_the_next_step_and_leaves_first() -> None:
    queue = scheduler(buckets=(1, 2))
    queue.add(call(0, 1, steps=4), 0.0)
    assert [run(queue, 0.0) for _ in range(2)] == [(Stage.ENCODE, [(0, 1)]), (Stage.REFINE, [(0, 1)])]
    queue.add(call(1, 1, deadline=0.5, steps=2), 0.01)  # more urgent, so it is encoded at once
    assert [run(queue, 0.01) for _ in range(6)] == [
        (Stage.ENCODE, [(1, 1)]),
        (Stage.REFINE, [(1, 1), (0, 1)]),
        (Stage.REFINE, [(1, 1), (0, 1)]),
        (Stage.SYNTHESIZE, [(1, 1)]),
        (Stage.REFINE, [(0, 1)]),
        (Stage.SYNTHESIZE, [(0, 1)]),
    ]


def test_the_next_frame_of_a_slot_waits_until_the_one_before_has_left() -> None:
    queue = scheduler()
    queue.add(call(0, 1, steps=2), 0.0)
    queue.add(call(0, 2, deadline=0.001), 0.0)
    stages = [run(queue, 0.0) for _ in range(6)]
    assert [names[0][1] for _, names in filter(None, stages)] == [1, 1, 1, 1, 2, 2]


def test_frames_of_nobody_fly_side_by_side() -> None:
    queue = scheduler()
    for seq in (1, 2):
        queue.add(call(-1, seq, steps=1), 0.0)
    assert [run(queue, 0.0) for _ in range(3)] == [
        (stage, [(-1, 1), (-1, 2)]) for stage in (Stage.ENCODE, Stage.REFINE, Stage.SYNTHESIZE)
    ]


@pytest.mark.parametrize("room", [1, 3, 5])
def test_no_more_are_in_flight_than_there_is_room_for(room: int) -> None:
    queue = scheduler(in_flight=room)
    for slot in range(8):
        queue.add(call(slot, 1, steps=1), 0.0)
    counts, flying = [], 0
    for stage, calls in filter(None, iter(lambda: run(queue, WAIT), None)):
        flying += len(calls) * ((stage is Stage.ENCODE) - (stage is Stage.SYNTHESIZE))
        counts.append(flying)
    assert max(counts) == room
    assert counts[-1] == 0
    assert not queue.busy


def test_new_frames_do_not_wait_for_company_beside_others_in_flight() -> None:
    queue = scheduler()
    for slot in (0, 1):
        queue.add(call(slot, 1), 0.0)
    assert run(queue, 0.0) == (Stage.ENCODE, [(0, 1), (1, 1)])
    queue.add(call(2, 1, deadline=0.0), 0.0)
    assert queue.wake_time(0.0) == 0.0
    assert run(queue, 0.0) == (Stage.ENCODE, [(2, 1)])


def test_a_frame_that_failed_leaves() -> None:
    queue = scheduler()
    calls = [call(slot, 1) for slot in range(2)]
    for each in calls:
        queue.add(each, 0.0)
    action = queue.next(0.0)
    assert action is not None
    assert queue.done(action, 0.0, 0.001, ended=calls[:1]) == calls[:1]
    assert told(queue.next(0.0)) == (Stage.SYNTHESIZE, [(1, 1)])


def test_a_slot_that_is_forgotten_takes_its_frame_along() -> None:
    queue = scheduler()
    for seq in (1, 2):
        queue.add(call(0, seq), 0.0)
    action = queue.next(0.0)
    assert action is not None
    assert names(queue.forget(0)) == [(0, 1), (0, 2)]
    assert queue.done(action, 0.0, 0.001) == []  # whoever forgot it answers it
    assert not queue.busy
    queue.add(call(0, 1), 0.0)
    assert queue.next(0.0) is not None
    assert names(queue.drain()) == [(0, 1)]
    assert not queue.busy


@pytest.mark.parametrize("steps", [0, 1, 3, 9])
@pytest.mark.parametrize("spare", [-0.001, 0.001])
def test_as_many_steps_as_fit_before_the_deadline(steps: int, spare: float) -> None:
    deadline = ALONE + steps * STEP + spare
    taken = Machine(seeded(scheduler())).run([call(0, 1, deadline, steps=8)])[0].steps
    assert taken == min(steps if spare > 0 else max(steps - 1, 0), 8)


def test_without_a_deadline_all_steps_are_taken() -> None:
    found = Machine(seeded(scheduler())).run([call(0, 1, steps=16), call(1, 1, steps=3)])
    assert {outcome.call.slot: outcome.steps for outcome in found} == {0: 16, 1: 3}


def test_what_is_more_urgent_counts_against_a_step() -> None:
    """It would fit in if nobody else were there, and does not because of one that is served before."""
    ours = call(0, 1, deadline=ALONE + STEP + 0.001, steps=1)
    assert Machine(seeded(scheduler(buckets=(1,)))).run([ours])[0].steps == 1
    theirs = call(1, 1, deadline=ALONE + 0.001)
    found = Machine(seeded(scheduler(buckets=(1,)))).run([ours, theirs])
    assert [(outcome.call, outcome.steps) for outcome in found] == [(theirs, 0), (ours, 0)]
    assert all(outcome.at <= outcome.call.deadline for outcome in found)


def test_a_step_lets_those_go_first_whom_it_would_make_late() -> None:
    """One without a deadline is in flight when another comes whose deadline leaves no time for a step before it."""
    ours = call(0, 1, steps=8)
    theirs = call(1, 1, deadline=0.02 + 2 * ALONE + STEP, arrival=0.02)
    found = Machine(seeded(scheduler())).run([ours, theirs])
    assert [(outcome.call, outcome.steps) for outcome in found] == [(theirs, 0), (ours, 8)]
    assert found[0].at <= theirs.deadline


def test_one_that_is_late_in_any_case_keeps_nobody_from_steps() -> None:
    hopeless = [call(1, seq, deadline=0.001 + 0.01 * seq, arrival=0.01 * seq) for seq in range(10)]
    found = Machine(seeded(scheduler())).run([call(0, 1, deadline=0.5, steps=8), *hopeless])
    assert {outcome.steps for outcome in found if outcome.call.slot == 0} == {8}


def test_costs_are_those_that_were_measured() -> None:
    """Steps turn out five times as slow as the warm-up said: the first frame is late, and those after it take none
    until that is long ago."""
    starts = [0.0, 0.1, 0.2, 11.0, 11.1]
    frames = [call(0, seq, at + ALONE + 4 * STEP, steps=4, arrival=at) for seq, at in enumerate(starts)]
    slow = Machine(seeded(scheduler()), lambda stage, size: seconds(stage, size) * (5 if stage is Stage.REFINE else 1))
    found = slow.run(frames)
    assert [outcome.steps for outcome in found] == [1, 0, 0, 1, 0]
    assert [outcome.at <= outcome.call.deadline for outcome in found] == [False, True, True, False, True]


@pytest.mark.parametrize("variants", [0, 1, 7])
def test_steps_leave_time_for_all_images_of_a_frame(variants: int) -> None:
    """What a synthesis takes depends on its images: of 8 it is 4.5 times that of 1."""
    budget = seconds(Stage.ENCODE, 1) + 2.5 * STEP + seconds(Stage.SYNTHESIZE, 1 + variants)
    frames = [call(0, seq, seq + budget, steps=4, arrival=float(seq), variants=variants) for seq in range(3)]
    found = Machine(seeded(scheduler(), (1, 2, 4, 8))).run(frames)
    assert [outcome.steps for outcome in found] == [2, 2, 2]
    assert all(outcome.at <= outcome.call.deadline for outcome in found)


@pytest.mark.parametrize(("variants", "stage"), [(0, Stage.ENCODE), (7, Stage.DROP)])
def test_a_frame_whose_images_take_too_long_is_dropped(variants: int, stage: Stage) -> None:
    queue = seeded(scheduler(), (1, 2, 4, 8))
    queue.add(call(0, 1, droppable=True), 0.0)
    assert [run(queue, 0.01) for _ in range(2)] == [(Stage.ENCODE, [(0, 1)]), (Stage.SYNTHESIZE, [(0, 1)])]
    frame = call(0, 2, 0.1 + 1.5 * ALONE, droppable=True, arrival=0.1, variants=variants)
    queue.add(frame, 0.1)
    assert run(queue, 0.1) == (stage, [(0, 2)])


@pytest.mark.parametrize("period", [0.02, 0.05])
def test_a_frame_that_the_next_one_overtakes_is_answered_before_it(period: float) -> None:
    """However much time its deadline leaves; one that nothing overtakes takes all its steps."""
    frames = [call(0, seq, steps=16, droppable=True, arrival=period * seq) for seq in range(30)]
    found = Machine(seeded(scheduler()), overtake=True).run(frames)
    assert not any(outcome.dropped for outcome in found)
    assert found[0].age <= period + STEP + ALONE  # nobody knew yet that another would come
    most = int((period - ALONE) / STEP)
    assert {outcome.steps for outcome in found[1:]} <= {most - 1, most}
    kept = [call(0, seq, steps=16, arrival=period * seq) for seq in range(30)]
    assert {outcome.steps for outcome in Machine(seeded(scheduler())).run(kept)} == {16}


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(0.0, 0.3), st.floats(0.0, 0.2) | st.just(math.inf), st.integers(0, 6)),
        min_size=1,
        max_size=24,
    ),
    st.sampled_from([(1,), (1, 2, 4), (1, 3)]),
    st.integers(1, 8),
)
def test_all_are_answered_in_order_in_buckets(
    frames: list[tuple[int, float, float, int]], buckets: tuple[int, ...], in_flight: int
) -> None:
    """Whatever comes: each frame leaves once, those of a slot in their order, never two of a slot at once; a step is
    taken only where the frame is in time after it, as far as the costs say; without a deadline all are taken."""
    frames = sorted(frames, key=lambda frame: frame[1])
    machine = Machine(seeded(scheduler(256, buckets, in_flight=in_flight), buckets))
    calls = [
        call(slot, seq, at + budget, steps=steps, arrival=at) for seq, (slot, at, budget, steps) in enumerate(frames)
    ]
    outcomes = machine.run(calls)
    assert sorted(outcome.call.seq for outcome in outcomes) == list(range(len(calls)))
    for slot in range(6):
        left = [outcome.call.seq for outcome in outcomes if outcome.call.slot == slot]
        assert left == sorted(left)
    begun: set[int] = set()
    for now, action in machine.actions:
        slots = [item.slot for item in action.calls]
        assert len(slots) in buckets
        assert len(set(slots)) == len(slots)
        if action.stage is Stage.ENCODE:
            assert not begun & set(slots)
            begun |= set(slots)
            assert len(begun) <= in_flight
        elif action.stage is Stage.SYNTHESIZE:
            begun -= set(slots)
        else:
            ends = now + seconds(Stage.REFINE, len(slots)) + seconds(Stage.SYNTHESIZE, 1)
            assert all(ends <= item.deadline for item in action.calls)
    for outcome in outcomes:
        if outcome.call.deadline == math.inf and in_flight >= 6:
            assert outcome.steps == outcome.call.steps


def test_room_has_to_be_positive() -> None:
    with pytest.raises(ConfigError, match="in flight"):
        Scheduler(capacity=1, buckets=(1,), max_wait=0.0, in_flight=0)


def test_no_batch_is_larger_than_what_there_is_memory_for() -> None:
    queue = scheduler(buckets=(1, 2, 4))
    queue.shrink(2)
    for slot in range(5):
        queue.add(call(slot, 0), 0.0)
    sizes = []
    while (action := queue.next(0.0, flush=True)) is not None:
        if action.stage is Stage.ENCODE:
            sizes.append(len(action.calls))
        queue.done(action, 0.0, 0.0)
    assert sizes == [2, 2, 1]
