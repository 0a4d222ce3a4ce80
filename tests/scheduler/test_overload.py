"""More comes in than can be done: fewer steps first, then drops, then no new sessions; and nobody starves."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.calls import Stage
from legato.pressure import MAX_CALLS, MIN_CALLS, Pressure
from tests.scheduler.machine import Machine, Outcome, call, scheduler, seconds, seeded

BUCKETS = (1, 2, 4)
FULL = seconds(Stage.ENCODE, 4) + seconds(Stage.SYNTHESIZE, 4)  # of four frames without a step


def stream(sessions: int, load: float, *, budget: float, steps: int = 4, length: float = 3.0) -> list[Outcome]:
    """Sessions at one pace, LATEST: `load` times as many frames as can be answered without any step."""
    return run(sessions, load, budget=budget, steps=steps, length=length).outcomes


def run(sessions: int, load: float, *, budget: float, steps: int = 4, length: float = 3.0) -> Machine:
    period = sessions * FULL / 4 / load
    frames = [
        call(slot, seq, at + budget, steps=steps, droppable=True, arrival=at)
        for slot in range(sessions)
        for seq in range(round(length / period))
        for at in [period * (seq + slot / sessions)]
    ]
    machine = Machine(seeded(scheduler(256), BUCKETS), overtake=True)
    machine.run(frames)
    return machine


def test_steps_go_before_frames_do() -> None:
    shares = []
    for load in (0.1, 0.3, 0.5):
        outcomes = stream(8, load, budget=0.1)
        assert sum(outcome.dropped for outcome in outcomes) <= 0.05 * len(outcomes)
        shares.append(sum(outcome.steps for outcome in outcomes) / len(outcomes))
    assert shares[0] > 1.0  # of 4
    assert shares[0] > shares[1] > shares[2]


@pytest.mark.parametrize("sessions", [1, 3, 8])
def test_at_three_times_the_load_answers_are_in_time_and_all_is_told(sessions: int) -> None:
    outcomes = stream(sessions, 3.0, budget=0.1)
    answered = sorted(outcome.age for outcome in outcomes if not outcome.dropped)
    assert len(answered) >= (0.3 if sessions >= 4 else 0.2) * len(outcomes)  # in full batches, alone
    assert answered[int(0.99 * len(answered))] <= 0.1
    assert len({(o.call.slot, o.call.seq) for o in outcomes}) == len(outcomes)


def test_sessions_have_equal_shares() -> None:
    for load in (1.5, 3.0):
        shares = Counter(o.call.slot for o in stream(8, load, budget=0.1) if not o.dropped)
        assert len(shares) == 8
        assert min(shares.values()) >= 0.8 * max(shares.values())


def test_one_without_deadlines_gets_on_among_many_that_are_hurried() -> None:
    period = FULL / 3.0
    hurried = [
        call(slot, seq, period * seq + 0.03, droppable=True, arrival=period * seq)
        for slot in range(4)
        for seq in range(300)
    ]
    patient = [call(9, seq, arrival=0.2 * seq, steps=2) for seq in range(5)]
    machine = Machine(seeded(scheduler(2048, patience=0.5), BUCKETS), overtake=True)
    ages = [outcome.age for outcome in machine.run(hurried + patient) if outcome.call.slot == 9]
    assert len(ages) == 5
    assert max(ages) <= 2 * 0.5


def test_a_deadline_that_nobody_can_meet_still_has_its_answers() -> None:
    frames = [call(0, seq, 0.04 * seq + 0.001, droppable=True, arrival=0.04 * seq) for seq in range(100)]
    outcomes = Machine(seeded(scheduler(patience=1.0), BUCKETS), overtake=True).run(frames)
    answered = [outcome.at for outcome in outcomes if not outcome.dropped]
    assert 3 <= len(answered) <= 5  # of four seconds, one a second


@pytest.mark.parametrize("slow", [range(1), range(40, 44)])
def test_a_slow_moment_does_not_cost_the_frames_after_it(slow: range) -> None:
    """The frames that are dropped for it tell nothing of what one costs by now: one a second is run all the same."""
    ran = 0

    def cost(stage: Stage, load: int) -> float:
        nonlocal ran
        ran += 1
        return 0.06 if ran - 1 in slow else seconds(stage, load)

    frames = [call(0, seq, 0.04 * seq + 0.04, droppable=True, arrival=0.04 * seq) for seq in range(200)]
    outcomes = Machine(seeded(scheduler(), BUCKETS), cost, overtake=True).run(frames)
    lost = [outcome for outcome in outcomes if outcome.dropped]
    assert len(lost) <= 2.5 / 0.04, "of 8 seconds"
    assert not any(outcome.dropped for outcome in outcomes[-100:])


def test_frames_that_are_not_droppable_are_answered_late() -> None:
    frames = [call(0, seq, 0.001 * seq + 0.02, arrival=0.001 * seq) for seq in range(50)]
    outcomes = Machine(seeded(scheduler(), BUCKETS)).run(frames)
    assert [outcome.dropped for outcome in outcomes] == [False] * 50
    assert outcomes[-1].age > 0.02


def test_overload_is_told_only_where_it_is_the_load() -> None:
    assert not run(8, 0.5, budget=0.1).overloads
    assert not run(8, 3.0, budget=0.1).overloads  # what is passed over for something newer is no trouble
    ordered = Machine(seeded(scheduler(), BUCKETS))
    ordered.run([call(n % 40, n, 0.001 * n + 0.1, arrival=0.001 * n) for n in range(400)])
    assert ordered.overloads
    impatient = Machine(seeded(scheduler(), BUCKETS))
    impatient.run([call(0, seq, 0.1 * seq + 0.001, arrival=0.1 * seq) for seq in range(40)])
    assert not impatient.overloads  # a deadline that leaves no time is nobody's load
    crowd = Machine(seeded(scheduler(capacity=4), BUCKETS))
    crowd.run([call(slot, 1, arrival=0.0) for slot in range(40)])
    assert crowd.overloads
    assert not crowd.queue.overloaded(crowd.now + 1.1)  # it passes


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(0.0, 1.0), st.floats(-0.1, 0.3) | st.just(math.inf), st.integers(0, 4)),
        max_size=60,
    ),
    st.booleans(),
    st.sampled_from([1, 2, 32]),
)
def test_nothing_starves(frames: list[tuple[int, float, float, int]], droppable: bool, in_flight: int) -> None:
    """Among calls of any deadlines, each is answered, or told dropped, soon after what came up to `patience` after it
    is done: there is nothing that could keep passing it by."""
    patience = 0.3
    machine = Machine(seeded(scheduler(256, patience=patience, in_flight=in_flight), BUCKETS), overtake=droppable)
    frames = sorted(frames, key=lambda frame: frame[1])
    calls = [
        call(slot, seq, at + budget, steps=steps, droppable=droppable, arrival=at)
        for seq, (slot, at, budget, steps) in enumerate(frames)
    ]
    outcomes = machine.run(calls)
    assert sorted(outcome.call.seq for outcome in outcomes) == list(range(len(calls)))
    alone = seconds(Stage.ENCODE, 1) + seconds(Stage.SYNTHESIZE, 1)
    for outcome in outcomes:
        came = outcome.call.since
        before = sum(alone + 4 * seconds(Stage.REFINE, 1) for other in calls if other.since <= came + patience)
        assert outcome.age <= patience + before


def test_pressure_counts_the_last_second() -> None:
    pressure = Pressure(1.0)
    for _ in range(MIN_CALLS - 1):
        pressure.add(0.0, in_time=False)
    assert not pressure.high(0.0)
    pressure.add(0.1, in_time=False)
    assert pressure.high(0.1)
    assert not pressure.high(1.05)
    for _ in range(2 * MAX_CALLS):
        pressure.add(2.0, in_time=False)
    for _ in range(MAX_CALLS // 2):
        pressure.add(2.0, in_time=True)
    assert not pressure.high(2.0)
