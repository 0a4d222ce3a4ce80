"""Long work in the engine's spare time: who is in the queue for it, whose turn it is, who has gone. No torch here.

A place is taken first, before anything is sent or decoded for it, and is refused when all are taken. Work runs on the
engine's thread, one at a time, in the order in which it came in, and calls its `pause` again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

from legato.errors import DeviceLost, Overloaded, ShuttingDown

Pause = Callable[[], None]
Work = Callable[[Pause], Any]
Moved = Callable[[int], None]  # told how many are worked on first; on any thread, and it may not block


def stopping() -> ShuttingDown:
    """The error of work that a stop has overtaken."""
    return ShuttingDown("the server stopped before this clip was done; send it to another one, or try again later")


class Abandoned(Exception):
    """Whoever asked for this work has left. It ends work, and nobody hears of it."""


class Place:
    """A place in the queue, to be left in the end; leaving ends the work in it. Any thread."""

    def __init__(self, queue: Background) -> None:
        self._queue = queue
        self.work: Work | None = None
        self.moved: Moved = lambda ahead: None
        self.ahead = -1  # as last told
        self.future: Future[Any] = Future()
        self.gone = False

    def submit(self, work: Work, moved: Moved | None = None) -> Future[Any]:
        """Puts the place's work in the queue, once. The future raises what the work raises."""
        assert self.work is None, "a place is for one piece of work"
        self.work = work
        self.moved = moved or self.moved
        self._queue.add(self)
        return self.future

    def leave(self) -> None:
        """Gives the place back. Work that waits is forgotten, work that runs ends at its next pause."""
        self.gone = True
        self.future.cancel()
        self._queue.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.leave()


class Background:
    """The queue. `wake` is called when work comes in.

    Args:
        capacity: places, the one whose work runs included.
        wake: tells the thread that runs the work.
    """

    def __init__(self, capacity: int, wake: Callable[[], None]) -> None:
        self._capacity = capacity
        self._wake = wake
        self._lock = threading.Lock()
        self._places: set[Place] = set()
        self._waiting: list[Place] = []
        self._running: Place | None = None
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether work waits and none runs."""
        return bool(self._waiting) and self._running is None

    def reserve(self, retry_seconds: float = 10.0) -> Place:
        """A place. Raises Overloaded (CLIPS_FULL) when there is none, ShuttingDown after `close`."""
        with self._lock:
            self._check_open()
            if len(self._places) >= self._capacity:
                raise Overloaded(
                    f"all {self._capacity} places for clips are taken, one is worked on at a time; try again later",
                    reason="CLIPS_FULL",
                    retry_seconds=retry_seconds,
                )
            place = Place(self)
            self._places.add(place)
            return place

    def add(self, place: Place) -> None:
        """Queues a place's work. Raises ShuttingDown after `close`."""
        with self._lock:
            self._check_open()
            self._waiting.append(place)
        self._tell()
        self._wake()

    def remove(self, place: Place) -> None:
        """Forgets a place."""
        with self._lock:
            self._places.discard(place)
            if place in self._waiting:
                self._waiting.remove(place)
        self._tell()

    def run_next(self, pause: Pause) -> None:
        """Runs the work of the first in the queue, if there is one and none runs; on the engine's thread."""
        with self._lock:
            if not self.ready:
                return
            place = self._running = self._waiting.pop(0)
        self._tell()
        try:
            if place.future.set_running_or_notify_cancel():
                self._run(place, pause)
        finally:
            with self._lock:
                self._running = None
            self._tell()

    def close(self) -> None:
        """Takes nothing new; work that waits ends with ShuttingDown. Work that runs is not touched."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, []
        for place in waiting:
            if place.future.set_running_or_notify_cancel():
                place.future.set_exception(stopping())

    def _run(self, place: Place, pause: Pause) -> None:
        def checked() -> None:
            pause()
            if place.gone:
                raise Abandoned

        assert place.work is not None
        try:
            found = place.work(checked)
        except BaseException as error:
            place.work = None
            place.future.set_exception(error)
            if isinstance(error, DeviceLost):
                raise
        else:
            place.work = None
            place.future.set_result(found)

    def _check_open(self) -> None:
        if self._closed:
            raise stopping()

    def _tell(self) -> None:
        """Tells every place whose number has changed how many are before it."""
        with self._lock:
            first = 0 if self._running is None else 1
            ahead = [(self._running, 0)] if self._running is not None else []
            ahead += [(place, first + index) for index, place in enumerate(self._waiting)]
            changed = [(place, count) for place, count in ahead if place.ahead != count]
            for place, count in changed:
                place.ahead = count
        for place, count in changed:
            place.moved(count)
