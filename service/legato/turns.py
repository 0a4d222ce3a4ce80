"""Whose turn it is on the device, where several models share it. No torch here.

Every model has an engine with a thread and a scheduler of its own. What they compute they compute in turns, one batch
at a time, in the order in which they asked: a model that is busy all the time leaves every second turn to another one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

QUIET_SECONDS = 0.002  # without a turn of another thread: then the device has time for what is not urgent


class Turns:
    """A lock that is handed on to whoever has waited longest; a bare lock goes to whoever asks again first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()
        self._last = (0, 0.0)  # the thread that had the last urgent turn, and when it ended

    @contextmanager
    def turn(self, *, urgent: bool = True) -> Iterator[None]:
        """Waits for a turn, and has it inside. What is not urgent is no reason for `rest`."""
        self._take()
        try:
            yield
        finally:
            if urgent:
                self._last = (threading.get_ident(), time.monotonic())
            self._give()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside a turn that is not urgent: the others have theirs, then it goes on."""
        self._give()
        try:
            yield
        finally:
            self._take()

    def rest(self) -> bool:
        """Sleeps a moment where another thread has just had an urgent turn, and probably wants the next; whether so."""
        who, when = self._last
        busy = who != threading.get_ident() and time.monotonic() - when < QUIET_SECONDS
        if busy:
            time.sleep(QUIET_SECONDS / 2)
        return busy

    def _take(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            called = threading.Lock()
            called.acquire()
            self._waiting.append(called)
        called.acquire()  # released by whoever hands the turn on

    def _give(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False
