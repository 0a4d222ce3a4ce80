"""What a device does for the first time it does before a client waits for it, and what it costs is measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from legato.calls import EngineObserver, Stage
from legato.devices import in_words
from legato.engine_options import EngineOptions
from legato.errors import LegatoError, OutOfMemory
from legato.flights import Flight
from legato.pipeline import Pipeline
from legato.turns import Turns
from legato.types import Edit, Frame, FrameJob, Outputs

log = logging.getLogger(__name__)


def prepare(
    pipeline: Pipeline,
    options: EngineOptions,
    beat: Callable[[], None],
    seed: Callable[[Stage, int, float], None],
    shrink: Callable[[int], None],
    observer: EngineObserver,
) -> None:
    """All that comes before the first frame, on the thread that will compute; tells what was found out."""
    sizes = options.batch_buckets
    pipeline.runner.enter()
    observer.largest_batch(sizes[-1], out_of_memory=False)
    largest = warm_up(pipeline, sizes, beat, seed, options.turns)
    if largest < sizes[-1]:
        shrink(largest)
    for stage, (captured, direct) in pipeline.runner.prepared().items():
        log.info("graphs", extra={"fields": {"stage": stage, "captured": captured, "direct": direct}})
        observer.graphs(stage, captured, direct)


def warm_up(
    pipeline: Pipeline,
    sizes: Sequence[int],
    beat: Callable[[], None],
    seed: Callable[[Stage, int, float], None] = lambda stage, size, seconds: None,
    turns: Turns | None = None,
) -> int:
    """Runs batches of every size with a step, and syntheses of every number of images, twice each, on nobody's frames;
    `beat` after each.

    The largest come first, so that the others fit into the memory that they took. `seed` is told what each stage cost,
    by what it took the second time. Gives the largest size that there is memory for; raises OutOfMemory where there is
    none. Images are synthesized in as large batches as there is memory for. A batch takes a turn of `turns`, but not on
    the CPU: there the system shares the cores, and frames of other models need not wait for a whole batch.
    """
    turn = nullcontext if turns is None or pipeline.device.type == "cpu" else turns.turn
    r = pipeline.resolution
    frame = Frame(np.random.default_rng(0).integers(0, 256, (r, r, 3), np.uint8))
    steps = min(1, pipeline.max_steps)

    def frames(size: int) -> bool:
        costs = _twice(turn, pipeline, [FrameJob(-1, 0, frame, max_steps=steps)] * size)
        for stage in (Stage.ENCODE, Stage.REFINE)[: 1 + steps] if costs else ():
            seed(stage, size, costs[stage])
        beat()
        return bool(costs)

    def images(size: int) -> bool:
        costs = _twice(turn, pipeline, [FrameJob(-1, 0, frame, variants=((),) * (size - 1))])
        if costs:
            seed(Stage.SYNTHESIZE, size, costs[Stage.SYNTHESIZE])
            with turn():
                _with_styles(pipeline, FrameJob(-1, 0, frame), size)
        beat()
        return bool(costs)

    with pipeline.runner.preparing():
        largest, most = _largest(sizes, frames), _largest(pipeline.image_sizes, images)
    if not (largest and most):
        raise OutOfMemory(
            f"the device {pipeline.device} has not the memory for one frame of this model; serve fewer sessions "
            "(--max-sessions, --in-flight), or use a device with more"
        )
    pipeline.draw_at_most(most)
    return largest


def _largest(sizes: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The largest of the sizes that fits, with all that are smaller; 0 for none."""
    found = 0
    for size in sorted(sizes, reverse=True):
        found = (found or size) if fits(size) else 0
    return found


def _with_styles(pipeline: Pipeline, job: FrameJob, size: int) -> None:
    """Where computations are captured: that of images with edits in S, if the model has such."""
    names = [name for name in pipeline.directions.names if pipeline.directions.info(name).space == "s"]
    if names and pipeline.runner.ahead:
        edits, alone = (Edit(names[0], 0.0),), Outputs(reconstruction=False)
        _measured(pipeline, [replace(job, edits=edits, variants=(edits,) * (size - 1), outputs=alone)])


def _twice(
    turn: Callable[[], AbstractContextManager[None]], pipeline: Pipeline, jobs: list[FrameJob]
) -> dict[Stage, float]:
    """The seconds of each stage, the second time; nothing where memory ran out."""
    costs: dict[Stage, float] | None = {}
    for _ in range(2):
        with turn():
            costs = _measured(pipeline, jobs) if costs is not None else None
    if costs:
        return costs
    pipeline.runner.relieve()
    return {}


def _measured(pipeline: Pipeline, jobs: list[FrameJob]) -> dict[Stage, float] | None:
    """The seconds of each stage, None where memory ran out. Raises what a job was answered with that is no answer."""
    flights: list[Flight] = []
    marks: list[Any] = [pipeline.runner.mark()]

    def mark() -> None:
        marks.append(pipeline.runner.mark())

    try:
        begun = pipeline.begin(jobs)
        flights += [flight for flight in begun if isinstance(flight, Flight)]
        mark()
        if jobs[0].max_steps:
            pipeline.step(flights)
        mark()
        for answer in [*begun, *pipeline.finish(flights)]:
            if isinstance(answer, LegatoError):
                raise answer
        mark()
    except torch.OutOfMemoryError as error:
        fields = {"stage": "warm_up", "frames": len(jobs), "why": in_words(error)}
        log.error("out of memory: batches are smaller from now on", extra={"fields": fields})
        return None
    finally:
        pipeline.abandon(flights)
    stages = (Stage.ENCODE, Stage.REFINE, Stage.SYNTHESIZE)
    spans = zip(stages, marks, marks[1:], strict=False)
    return {stage: pipeline.runner.seconds(begin, end) for stage, begin, end in spans}
