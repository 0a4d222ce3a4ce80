"""Contenders side by side: each round runs every one of them once, and the medians over the rounds are compared.

A machine that slows down for a while then slows all of them. Each contender's result is compared with the first one's
before anything is timed: one that computes something else is not compared in speed.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Outputs = Sequence[Tensor]
Call = Callable[[], Outputs]
SLOW_SECONDS = 0.05  # the first call of a slower contender tells well enough how long the next ones take
SAMPLE_SECONDS = 0.002  # of one sample at least: shorter calls are repeated within it
# Greatest distance from the first contender's result, |a - b| / |b|: of another order of summation and rounding.
# Gradients may go through a leaky ReLU on one side of 0 here and on the other there.
AGREEMENT = {"float32": 1e-2, "bfloat16": 0.1, "float16": 0.02}
KINKS = 0.2  # where a mask, a tap or the sign of a difference jumps, rounding decides the side of a few pixels


@dataclass(slots=True)
class Race:
    """Seconds a call by contender: medians and interquartile ranges. not_run: why a contender has none."""

    median: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    difference: dict[str, float] = field(default_factory=dict)  # |a - b| / |b| to the first contender, the largest
    rounds: int = 0
    not_run: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long one race lasts: at least `least` rounds (three at most, where one takes twice `seconds`), then until
    `seconds` have passed, at most `most` rounds."""

    seconds: float = 1.0
    least: int = 5
    most: int = 200


class Contest:
    """The contenders of one race. `admit` warms one up and compares it with the first; `run` then races them."""

    def __init__(self, device: torch.device, agreement: float, *, grad: bool) -> None:
        self.device = device
        self.race = Race()
        self.first_call: dict[str, float] = {}  # seconds of a warm call; a first guess
        self._limit = agreement
        self._grad = grad
        self._results: list[Tensor] | None = None  # the first contender's
        self._passes: dict[str, tuple[Callable[[], None], int]] = {}

    def admit(self, name: str, calls: Sequence[Call]) -> bool:
        """Warm `name` up; `calls` are the same work on different buffers. False, and a reason, if it cannot race."""
        try:
            with self._mode():
                begun = time.perf_counter()
                results = [result.detach().float() for result in calls[0]()]
                first = time.perf_counter() - begun
                if self._results is None:
                    self._results = results
                # The first contender may give more than others: a mask beside the image.
                difference = max(distance(a, b) for a, b in zip(results, self._results, strict=False))
                del results
                self.race.difference[name] = difference
                if not difference <= self._limit:
                    raise ArithmeticError(f"its result differs by {difference:.1e}, more than {self._limit:.0e}")
                self.first_call[name] = first if first > SLOW_SECONDS else self._time(lambda: calls[0](), 1)
                self._passes[name] = (self._one_pass(calls), len(calls))
        except Exception as error:  # whatever a formulation or a peer does, the others are measured
            self.race.not_run[name] = reason(error)
            return False
        return True

    def run(self, pace: Pace, stop: float = math.inf) -> Race:
        """Race all that were admitted; after one round, no longer than until `stop` on the clock of perf_counter."""
        self._results = None
        samples: dict[str, list[float]] = {name: [] for name in self._passes}
        counts = {
            name: max(1, math.ceil(SAMPLE_SECONDS / max(self.first_call[name] * sets, 1e-6)))
            for name, (_, sets) in self._passes.items()
        }
        order = list(self._passes)
        one_round = sum(self.first_call[name] * sets for name, (_, sets) in self._passes.items())
        least = pace.least if one_round < 2 * pace.seconds else min(3, pace.least)
        end = time.perf_counter() + pace.seconds
        with self._mode():
            while order and self.race.rounds < pace.most:
                now = time.perf_counter()
                if self.race.rounds and (now >= stop or (self.race.rounds >= least and now >= end)):
                    break
                for name in order:
                    run, sets = self._passes[name]
                    samples[name].append(self._time(run, counts[name]) / sets)
                self.race.rounds += 1
                order = order[1:] + order[:1]  # who runs after whom changes
        for name, seconds in samples.items():
            self.race.median[name] = statistics.median(seconds)
            quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [0.0, 0.0, 0.0]
            self.race.spread[name] = quartiles[2] - quartiles[0]
        self._passes.clear()
        return self.race

    def _mode(self) -> torch.inference_mode:
        return torch.inference_mode(not self._grad)

    def _time(self, run: Callable[[], object], count: int) -> float:
        """Seconds of one `run`, by the host's clock or by the device's events."""
        if self.device.type != "cuda":
            begun = time.perf_counter()
            for _ in range(count):
                run()
            return (time.perf_counter() - begun) / count
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / count / 1e3

    def _one_pass(self, calls: Sequence[Call]) -> Callable[[], None]:
        """Every one of `calls` once; on CUDA as a captured graph, so that launches are not what is measured."""

        def run() -> None:
            for call in calls:
                call()

        if self.device.type != "cuda":
            return run
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):  # warmed up where it is captured
            run()
            run()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        graph.replay()
        torch.cuda.synchronize(self.device)
        return lambda: graph.replay()


def distance(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|; infinite where the shapes differ or a value is not finite."""
    if a.shape != b.shape:
        return math.inf
    found = float((a - b).norm() / b.norm().clamp_min(1e-30))
    return found if math.isfinite(found) else math.inf


def reason(error: BaseException) -> str:
    """One line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def geometric_mean(values: Iterable[float]) -> float | None:
    """Of positive values; None of none."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def forward(function: Callable[..., Any], *arguments: object) -> Call:
    """A call of `function` for its results; `Contest` turns gradients off around it."""

    def call() -> Outputs:
        result: Tensor | Outputs = function(*arguments)
        return (result,) if isinstance(result, Tensor) else result

    return call


def with_backward(function: Callable[..., Any], leaves: Sequence[Tensor], *arguments: object) -> Call:
    """A call of `function` and of its gradient to `leaves`, under a fixed gradient laid out as the result."""
    fixed: list[Tensor] = []

    def call() -> Outputs:
        result: Tensor = function(*arguments)
        if not fixed:
            random = torch.Generator().manual_seed(1)
            gradient = torch.randn(result.shape, generator=random).to(result.device, result.dtype)
            fixed.append(torch.empty_like(result, requires_grad=False).copy_(gradient))
        return torch.autograd.grad(result, leaves, fixed[0])

    return call
