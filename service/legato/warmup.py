"""What a device does for the first time it does before a client waits for it, and what it costs is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from legato.calls import Stage
from legato.errors import LegatoError
from legato.flights import Flight
from legato.pipeline import Pipeline
from legato.turns import Turns
from legato.types import Frame, FrameJob


def warm_up(
    pipeline: Pipeline,
    sizes: Sequence[int],
    beat: Callable[[], None],
    seed: Callable[[Stage, int, float], None] = lambda stage, size, seconds: None,
    turns: Turns | None = None,
) -> None:
    """Runs batches of every size with a step, and syntheses of every number of images, twice each, on nobody's frames;
    `beat` after each.

    `seed` is told what each stage cost, by what it took the second time. A batch takes a turn of `turns`, but not on
    the CPU: there the system shares the cores, and frames of other models need not wait for a whole batch.
    """
    turn = nullcontext if turns is None or pipeline.device.type == "cpu" else turns.turn
    r = pipeline.resolution
    frame = Frame(np.random.default_rng(0).integers(0, 256, (r, r, 3), np.uint8))
    steps = min(1, pipeline.max_steps)
    for size in sizes:
        costs = _twice(turn, pipeline, [FrameJob(-1, 0, frame, max_steps=steps)] * size)
        for stage in (Stage.ENCODE, Stage.REFINE)[: 1 + steps]:
            seed(stage, size, costs[stage])
        beat()
    for images in pipeline.image_sizes:
        costs = _twice(turn, pipeline, [FrameJob(-1, 0, frame, variants=((),) * (images - 1))])
        seed(Stage.SYNTHESIZE, images, costs[Stage.SYNTHESIZE])
        beat()


def _twice(
    turn: Callable[[], AbstractContextManager[None]], pipeline: Pipeline, jobs: list[FrameJob]
) -> dict[Stage, float]:
    with turn():
        _run(pipeline, jobs)
    with turn():
        return _run(pipeline, jobs)


def _run(pipeline: Pipeline, jobs: list[FrameJob]) -> dict[Stage, float]:
    """The seconds of each stage. Raises what a job was answered with, where that is no answer."""
    times = [time.perf_counter()]
    begun = pipeline.begin(jobs)
    flights = [flight for flight in begun if isinstance(flight, Flight)]
    times.append(time.perf_counter())
    if jobs[0].max_steps:
        pipeline.step(flights)
    times.append(time.perf_counter())
    for answer in [*begun, *pipeline.finish(flights)]:
        if isinstance(answer, LegatoError):
            raise answer
    times.append(time.perf_counter())
    stages = (Stage.ENCODE, Stage.REFINE, Stage.SYNTHESIZE)
    return {stage: end - begin for stage, begin, end in zip(stages, times, times[1:], strict=False)}
