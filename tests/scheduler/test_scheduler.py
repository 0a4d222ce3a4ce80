"""The scheduler's decisions, with a clock that the tests turn."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.calls import Call, Stage
from legato.errors import ConfigError, Overloaded
from legato.scheduler import Scheduler
from tests.scheduler.machine import WAIT, call, names, scheduler


def take(queue: Scheduler, now: float, *, flush: bool = False) -> list[Call]:
    """The next batch of new calls, run to its end at once."""
    action = queue.next(now, flush=flush)
    if action is None:
        return []
    assert action.stage is Stage.ENCODE
    assert queue.done(action, now, 0.0) == []
    while (after := queue.next(now)) is not None and after.stage is not Stage.ENCODE:
        left = queue.done(after, now, 0.0)
        if set(left) == set(action.calls):
            return list(action.calls)
    raise AssertionError(f"something else runs before these are answered: {after}")


def test_empty() -> None:
    queue = scheduler()
    assert take(queue, 0.0) == []
    assert take(queue, 0.0, flush=True) == []
    assert queue.wake_time(0.0) == math.inf
    assert len(queue) == 0
    assert not queue.busy


def test_single_stream_is_never_kept_waiting() -> None:
    queue = scheduler()
    for seq in range(3):
        now = seq * 0.033
        queue.add(call(0, seq), now)
        assert queue.wake_time(now) == now
        assert names(take(queue, now)) == [(0, seq)]


def test_one_call_of_a_slot_in_a_batch_in_order() -> None:
    queue = scheduler()
    for seq in range(3):
        queue.add(call(7, seq, deadline=3.0 - seq), 0.0)  # later ones are more urgent, and still come later
        queue.add(call(8, seq), 0.0)
    taken = [take(queue, 0.0) for _ in range(3)]
    assert [sorted(names(batch)) for batch in taken] == [[(7, seq), (8, seq)] for seq in range(3)]
    assert len(queue) == 0


def test_earliest_deadline_first() -> None:
    queue = scheduler(buckets=(1, 2))
    queue.add(call(0, 1), 0.0)
    queue.add(call(1, 1, deadline=0.3), 0.0)
    queue.add(call(2, 1, deadline=0.1), 0.0)
    assert names(take(queue, 0.0)) == [(2, 1), (1, 1)]
    assert names(take(queue, 0.0, flush=True)) == [(0, 1)]


def test_waits_for_recent_slots_at_most_max_wait() -> None:
    queue = scheduler()
    queue.add(call(0, 1), 0.0)
    queue.add(call(1, 1), 0.0)
    take(queue, 0.0)
    queue.add(call(0, 2), 0.1)
    assert take(queue, 0.1) == []  # slot 1 has just been there: its next frame may come any moment
    assert queue.wake_time(0.1) == 0.1 + WAIT
    assert take(queue, 0.1 + WAIT / 2) == []
    assert names(take(queue, 0.1 + WAIT)) == [(0, 2)]


def test_everybody_is_there_so_nobody_waits() -> None:
    queue = scheduler()
    for seq in (1, 2):
        now = seq * 0.033
        queue.add(call(0, seq), now)
        queue.add(call(1, seq), now + 0.001)
        assert sorted(names(take(queue, now + 0.001))) == [(0, seq), (1, seq)]


def test_silent_slots_are_not_waited_for() -> None:
    queue = scheduler()
    queue.add(call(0, 1), 0.0)
    queue.add(call(1, 1), 0.0)
    take(queue, 0.0)
    queue.add(call(0, 2), 1.0)
    assert names(take(queue, 1.0)) == [(0, 2)]


def test_forgotten_slots_are_not_waited_for() -> None:
    queue = scheduler()
    queue.add(call(0, 1), 0.0)
    queue.add(call(1, 1), 0.0)
    take(queue, 0.0)
    queue.add(call(1, 2), 0.01)
    assert [item.seq for item in queue.forget(1)] == [2]
    queue.add(call(0, 2), 0.02)
    assert names(take(queue, 0.02)) == [(0, 2)]
    assert len(queue) == 0


def test_full_batch_does_not_wait() -> None:
    queue = scheduler()
    for slot in range(5):
        queue.add(call(slot, 1), 0.0)
    take(queue, 0.0)
    for slot in range(4):
        queue.add(call(slot, 2), 0.01)
    assert len(take(queue, 0.01)) == 4  # slot 4 is missing, but there is no room for it


@pytest.mark.parametrize(("waiting", "formed"), [(1, 1), (2, 2), (3, 2), (4, 4), (7, 4)])
def test_batch_is_the_largest_bucket_that_fills(waiting: int, formed: int) -> None:
    queue = scheduler()
    for slot in range(waiting):
        queue.add(call(slot, 1), 0.0)
    assert len(take(queue, 0.0)) == formed
    assert len(queue) == waiting - formed


def test_calls_of_nobody_share_a_batch() -> None:
    queue = scheduler()
    for seq in range(4):
        queue.add(call(-1, seq), 0.0)
    assert names(take(queue, 0.0)) == [(-1, seq) for seq in range(4)]


def test_flush_does_not_wait() -> None:
    queue = scheduler()
    queue.add(call(0, 1), 0.0)
    queue.add(call(1, 1), 0.0)
    take(queue, 0.0)
    queue.add(call(0, 2), 0.01)
    assert names(take(queue, 0.01, flush=True)) == [(0, 2)]


def test_full_queue_refuses_and_says_so() -> None:
    queue = scheduler(capacity=2)
    queue.add(call(0, 1), 0.0)
    queue.add(call(0, 2), 0.0)
    with pytest.raises(Overloaded, match="2 frames") as caught:
        queue.add(call(1, 1), 0.0)
    assert caught.value.reason == "QUEUE_FULL"
    take(queue, 0.0)
    queue.add(call(1, 1), 0.0)


def test_cancel() -> None:
    queue = scheduler()
    for seq in (1, 2, 3):
        queue.add(call(0, seq), 0.0)
    queue.add(call(-1, 9), 0.0)
    found = queue.cancel(0, 2)
    assert found is not None
    assert found.seq == 2
    assert queue.cancel(0, 2) is None
    assert queue.cancel(5, 1) is None
    alone = queue.cancel(-1, 9)
    assert alone is not None
    assert alone.seq == 9
    assert [names(take(queue, 0.0)) for _ in range(2)] == [[(0, 1)], [(0, 3)]]


def test_drain_keeps_the_order_of_submission() -> None:
    queue = scheduler()
    sent = [(2, 1), (-1, 5), (0, 1), (2, 2)]
    for slot, seq in sent:
        queue.add(call(slot, seq), 0.0)
    assert names(queue.drain()) == sent
    assert len(queue) == 0
    assert take(queue, 1.0) == []


def test_nothing_starves() -> None:
    """Late frames come faster than they are served; one without a deadline runs before what comes a patience later."""
    queue = scheduler(buckets=(1,), capacity=10_000, patience=1.0)
    queue.add(call(99, 0), 0.0)
    served: list[Call] = []
    for tick in range(200):
        now = tick * 0.02
        for slot in range(3):
            queue.add(call(slot, tick, deadline=now - 5.0), now)
        served += take(queue, now, flush=True)
    before = served[: names(served).index((99, 0))]
    assert before
    assert all(item.seq * 0.02 <= 1.0 for item in before)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "add", "take", "flush", "cancel", "forget"]),
            st.integers(-1, 4),
            st.floats(0.0, 0.02),
            st.floats(-0.1, 2.0),
        ),
        max_size=60,
    )
)
def test_every_call_leaves_once_and_in_order(acts: list[tuple[str, int, float, float]]) -> None:
    queue = scheduler(capacity=12)
    now, count = 0.0, 0
    waiting: dict[int, list[int]] = defaultdict(list)
    for act, slot, later, due in acts:
        now += later
        if act == "add":
            count += 1
            if sum(map(len, waiting.values())) == 12:
                with pytest.raises(Overloaded):
                    queue.add(call(slot, count), now)
            else:
                queue.add(call(slot, count, now + due), now)
                waiting[slot].append(count)
        elif act in ("take", "flush"):
            batch = names(take(queue, now, flush=act == "flush"))
            assert len(batch) in (0, 1, 2, 4)
            owned = [taken for taken, _ in batch if taken >= 0]
            assert len(owned) == len(set(owned))
            for taken, seq in batch:
                assert taken == -1 or waiting[taken][0] == seq
                waiting[taken].remove(seq)
        elif act == "cancel" and waiting[slot]:
            assert queue.cancel(slot, waiting[slot].pop()) is not None
        elif act == "forget" and slot >= 0:
            assert [item.seq for item in queue.forget(slot)] == waiting.pop(slot, [])
        assert len(queue) == sum(map(len, waiting.values()))
        assert queue.wake_time(now) <= now + WAIT or not len(queue)
    assert sorted(item.seq for item in queue.drain()) == sorted(seq for seqs in waiting.values() for seq in seqs)


@pytest.mark.parametrize("buckets", [(), (2, 4), (1, 4, 2), (1, 1), (0, 1)])
def test_buckets_have_to_be_sizes_from_1_up(buckets: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="buckets"):
        Scheduler(capacity=1, buckets=buckets, max_wait=0.0)


def test_bounds_have_to_be_positive() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Scheduler(capacity=0, buckets=(1,), max_wait=0.0)
    with pytest.raises(ConfigError, match="max_wait"):
        Scheduler(capacity=1, buckets=(1,), max_wait=math.inf)
