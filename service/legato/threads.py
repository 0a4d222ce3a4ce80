"""Threads that end with their work. No torch here.

OpenMP keeps workers for every thread that ever computed something. As soon as all of them together are more than the
processors, its workers no longer wait awake for the next op but go to sleep after each: on 2 cores, with heads-128, an
engine then answers a fifth fewer frames. So nothing but engines computes on threads that stay.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class PassingThread(Executor):
    """Runs one piece of work after the other, on a thread that ends when none is left.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str = "legato-passing") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._thread: threading.Thread | None = None  # None: nothing is left
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """What `fn(*args, **kwargs)` will give or raise. Raises RuntimeError after `shutdown`."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("this thread was shut down; it takes no new work")
            self._waiting.append((future, partial(fn, *args, **kwargs)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes nothing new; with `cancel_futures` cancels what has not begun, with `wait` waits for the rest."""
        with self._lock:
            self._closed = True
            cancelled = [future for future, _ in self._waiting] if cancel_futures else []
            thread = self._thread
        for future in cancelled:
            future.cancel()
        if wait and thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                future, work = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result  # who asked for it decides how long it lives
            del future, work


def apart(work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """What `work(*args, **kwargs)` gives or raises, on a thread that has ended then, or is about to."""
    future: Future[T] = PassingThread().submit(work, *args, **kwargs)
    return future.result()
