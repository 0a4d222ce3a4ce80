"""Work on a thread that ends with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from legato.threads import PassingThread

PATIENCE = 10.0  # seconds


@pytest.fixture
def threads() -> Iterator[PassingThread]:
    with PassingThread("passing") as made:
        yield made


def test_the_thread_ends_with_its_work_and_the_next_work_has_another(threads: PassingThread) -> None:
    for _ in range(2):
        thread = threads.submit(threading.current_thread).result(PATIENCE)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert thread is not threading.current_thread()


def test_one_piece_of_work_runs_at_a_time_in_their_order(threads: PassingThread) -> None:
    hold, running, done = threading.Event(), [], []

    def work(number: int) -> None:
        running.append(number)
        assert len(running) == 1
        assert hold.wait(PATIENCE)
        running.remove(number)
        done.append(number)

    futures = [threads.submit(work, number) for number in range(5)]
    hold.set()
    for future in futures:
        future.result(PATIENCE)
    assert done == [0, 1, 2, 3, 4]


def test_an_error_is_the_futures_and_the_next_work_runs(threads: PassingThread) -> None:
    def fails() -> None:
        raise ValueError("wrong")

    failed, worked = threads.submit(fails), threads.submit(int, "7")
    with pytest.raises(ValueError, match="wrong"):
        failed.result(PATIENCE)
    assert worked.result(PATIENCE) == 7


def test_a_shutdown_waits_for_what_has_begun_and_cancels_the_rest_where_that_is_wanted() -> None:
    for cancel in (False, True):
        threads, begun, hold = PassingThread(), threading.Event(), threading.Event()

        def first(begun: threading.Event = begun, hold: threading.Event = hold) -> str:
            begun.set()
            assert hold.wait(PATIENCE)
            return "first"

        one, two = threads.submit(first), threads.submit(str, "second")
        assert begun.wait(PATIENCE)
        threads.shutdown(wait=False, cancel_futures=cancel)
        with pytest.raises(RuntimeError, match="no new work"):
            threads.submit(int)
        hold.set()
        threads.shutdown()
        assert one.result(0) == "first"
        if cancel:
            with pytest.raises(CancelledError):
                two.result(0)
        else:
            assert two.result(0) == "second"
