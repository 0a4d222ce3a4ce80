"""A training as seen from a terminal or a log file: its progress, and how it is asked to stop."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from legato.train.pace import duration
from legato.train.training import Training, Values

TERMINAL_SECONDS, LOG_SECONDS = 0.5, 30.0  # between two updates
ESTIMATE_SECONDS = 10.0  # of steps before the time that all take is told
LOG_LINE = "{n_fmt}/{total_fmt} images {percentage:3.0f}% {rate_fmt} {remaining} left{postfix}"


class Stop:
    """Whether a signal came or the time is up; asked between two steps."""

    def __init__(self, end: float) -> None:
        self.by_signal = False
        self._end = end

    def __call__(self) -> bool:
        return self.by_signal or time.monotonic() > self._end


@contextlib.contextmanager
def stopping(end: float) -> Iterator[Stop]:
    """Asks for a stop at `end`, monotonic seconds, and at the first SIGINT or SIGTERM; a second one acts as if nobody
    listened. Main thread only."""
    stop = Stop(end)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: object) -> None:
        stop.by_signal = True
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()


class _Lines:
    """Turns the updates of a progress bar into lines of a log."""

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


class Estimate:
    """Says once, after the first images, how long all of them take."""

    def __init__(self, total: int, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._seen, self._clock = total, done, clock
        self._first: tuple[float, int] | None = None  # when the first step was over, and how many images by then
        self._told = False

    def __call__(self, batch: int) -> str | None:
        """After a step on `batch` images: the sentence, once it can be said."""
        self._seen += batch
        now = self._clock()
        if self._first is None:
            self._first = now, self._seen
        begun, before = self._first
        if self._told or now - begun < ESTIMATE_SECONDS or self._seen == before:
            return None
        self._told = True
        rate = (self._seen - before) / (now - begun)
        left = duration((self._total - self._seen) / rate)
        return f"at {rate:.3g} images a second the remaining {self._total - self._seen:,} images take about {left}"


def run_with_progress(training: Training, stop: Stop) -> bool:
    """Runs it beside a bar of images, rate, time left and latest losses. Returns whether it finished."""
    terminal = sys.stderr.isatty()
    pause = TERMINAL_SECONDS if terminal else LOG_SECONDS
    layout: dict[str, Any] = {"dynamic_ncols": True} if terminal else {"file": _Lines(), "bar_format": LOG_LINE}
    total, done = training.total_images, training.images
    layout["disable"] = not training.group.leads
    with tqdm(total=total, initial=done, unit="img", mininterval=pause, smoothing=0.1, **layout) as bar:
        latest: dict[str, Any] = {}
        shown = -math.inf
        estimate = Estimate(total, done)

        def progress(batch: int, values: Values) -> None:
            nonlocal shown
            if told := estimate(batch):
                tqdm.write(told, file=sys.stderr)
            latest.update(values)
            if time.monotonic() - shown > pause:
                shown = time.monotonic()
                bar.set_postfix({name: f"{float(value):.3g}" for name, value in latest.items()}, refresh=False)
            bar.update(batch)

        return training.run(progress, stop)


def say(text: str) -> None:
    """One line to the person who waits."""
    print(text, file=sys.stderr, flush=True)
