"""Turns on the device go round, whatever else the threads do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from legato.turns import QUIET_SECONDS, Turns


def waiting(turns: Turns, count: int) -> None:
    """Returns once so many threads wait for a turn."""
    end = time.monotonic() + 30.0
    while len(turns._waiting) < count:
        assert time.monotonic() < end, "nobody asked"
        time.sleep(0.001)


def begin(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_turns_come_in_the_order_in_which_they_were_asked_for() -> None:
    turns, seen = Turns(), list[int]()

    def take(number: int) -> None:
        with turns.turn():
            seen.append(number)

    threads = []
    with turns.turn():
        for number in range(5):
            threads.append(begin(lambda number=number: take(number)))  # type: ignore[misc]
            waiting(turns, number + 1)
        assert seen == []
    for thread in threads:
        thread.join(30)
    assert seen == [0, 1, 2, 3, 4]


def test_one_that_asks_again_at_once_comes_after_those_that_wait() -> None:
    turns, seen = Turns(), list[str]()

    def other() -> None:
        with turns.turn():
            seen.append("other")

    with turns.turn():
        thread = begin(other)
        waiting(turns, 1)
    with turns.turn():
        seen.append("again")
    thread.join(30)
    assert seen == ["other", "again"]


def test_a_turn_is_given_back_by_an_error() -> None:
    turns = Turns()
    try:
        with turns.turn():
            raise ValueError
    except ValueError:
        pass
    with turns.turn():
        assert turns._taken
    assert not turns._taken


def test_long_work_steps_aside_for_others_and_goes_on() -> None:
    turns, seen = Turns(), list[str]()

    def other() -> None:
        with turns.turn():
            seen.append("other")

    with turns.turn(urgent=False):
        thread = begin(other)
        waiting(turns, 1)
        seen.append("first part")
        with turns.aside():
            thread.join(30)
        seen.append("second part")
    assert seen == ["first part", "other", "second part"]


def test_long_work_rests_while_another_thread_computes_and_not_for_its_own_frames() -> None:
    turns = Turns()
    assert not turns.rest(), "nobody has had a turn"
    with turns.turn():
        pass
    assert not turns.rest(), "its own thread's turn"

    def urgent() -> None:
        with turns.turn():
            pass

    def patient() -> None:
        with turns.turn(urgent=False):
            pass

    begin(patient).join(30)
    assert not turns.rest(), "what is not urgent is no reason"
    turns._last = (0, time.monotonic() + 1.0)  # another thread's, and so far from over that no stall matters
    assert turns.rest()
    begin(urgent).join(30)
    time.sleep(QUIET_SECONDS)
    assert not turns.rest(), "quiet again"
