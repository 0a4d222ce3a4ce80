"""Figures of a stream: counts, rate, quality, age of the frames and where it went."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from legato_client.types import Answer, Dropped, Failed, FrameResult


class Percentiles(TypedDict):
    p50: float
    p95: float
    p99: float


class Report(TypedDict):
    """What a report file holds of its stream. Times in milliseconds, means over the answered frames.

    `psnr_db` is None where no reconstruction was asked for.
    """

    frames_in: int
    frames_out: int
    frames_dropped: int
    frames_failed: int
    fps: float
    psnr_db: float | None
    frame_age_ms: Percentiles
    stage_ms: dict[str, float]
    steps: float


class Meter:
    """Adds up answers. `fps`: answered frames over the time from the first one's hand-over to the last answer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: float | None = None
        self._last = 0.0
        self._ages: list[float] = []
        self._psnr: list[float] = []
        self._steps: list[int] = []
        self._stages: defaultdict[str, float] = defaultdict(float)
        self.dropped = self.failed = 0
        self.complaint: str | None = None  # of the first frame that failed

    @property
    def answered(self) -> int:
        return len(self._ages)

    def add(self, answer: Answer) -> None:
        """Counts an answer, at the moment at which it is here."""
        self._last = self._clock()
        match answer:
            case FrameResult():
                if self._begun is None:
                    self._begun = self._last - answer.age_seconds
                self._ages.append(answer.age_seconds)
                if answer.psnr_db is not None:
                    self._psnr.append(answer.psnr_db)
                self._steps.append(answer.steps)
                for stage, seconds in answer.stage_seconds.items():
                    self._stages[stage] += seconds
            case Dropped():
                self.dropped += 1
            case Failed():
                self.failed += 1
                self.complaint = self.complaint or answer.message

    def report(self, frames_in: int, frames_out: int) -> Report:
        """The figures so far; without an answered frame, all zero."""
        answered = max(self.answered, 1)
        elapsed = self._last - self._begun if self._begun is not None else 0.0
        return Report(
            frames_in=frames_in,
            frames_out=frames_out,
            frames_dropped=self.dropped,
            frames_failed=self.failed,
            fps=round(self.answered / elapsed, 2) if elapsed else 0.0,
            psnr_db=round(sum(self._psnr) / len(self._psnr), 3) if self._psnr else None,
            frame_age_ms=percentiles(self._ages),
            stage_ms={stage: round(total / answered * 1e3, 3) for stage, total in self._stages.items()},
            steps=round(sum(self._steps) / answered, 3),
        )


def percentiles(seconds: Sequence[float]) -> Percentiles:
    """50th, 95th and 99th percentile in milliseconds; zero for no value."""
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99)) * 1e3 if len(seconds) else (0.0, 0.0, 0.0)
    return Percentiles(p50=round(float(p50), 3), p95=round(float(p95), 3), p99=round(float(p99), 3))
