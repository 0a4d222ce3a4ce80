"""The served path, driven from outside: a local server, loads from a process of their own, the engine without gRPC."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from legato.config import EngineConfig
from legato.engine import Engine
from legato.errors import LegatoError
from legato.pipeline import Pipeline
from legato.threads import apart
from legato.types import Edit, Frame, FrameAnswer, FrameJob

Build = Callable[[EngineConfig], Engine]  # what `legato serve` builds its engine with
Pixels = NDArray[np.uint8]
AHEAD = 2  # frames of a session that are submitted at once in a closed loop
WARM_BATCHES = 2  # before the clock starts
SHIFT = 7  # frames of the clip by which sessions differ
PATIENCE_SECONDS = 120.0


def put_load(address: str, clip: Path | None = None, **options: object) -> dict[str, Any]:
    """The figures of `legato-client bench` against a server, run as a process of its own.

    `options` are those of that command, as `sessions=8, fps=25`. Raises LegatoError where it fails.
    """
    flags = {"server": address, **({"input": clip} if clip else {}), **options}
    command = [sys.executable, "-m", "legato_client", "bench", "--json"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LegatoError(f"the load on {address} failed: {done.stderr.strip()[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def batches(metrics_address: str) -> dict[str, tuple[float, float]]:
    """(batches, frames in them) of each stage since the server's start, from its Prometheus page."""
    with urlopen(f"http://{metrics_address}/metrics", timeout=10.0) as page:
        text = page.read().decode()
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in ("legato_batch_size_count", "legato_batch_size_sum"):
                pair = found.setdefault(sample.labels["stage"], [0.0, 0.0])
                pair[sample.name.endswith("sum")] = sample.value
    return {stage: (count, total) for stage, (count, total) in found.items()}


def mean_batches(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """The mean batch size of each stage between two readings."""
    means = {}
    for stage, (count, total) in after.items():
        known = before.get(stage, (0.0, 0.0))
        if count > known[0]:
            means[stage] = round((total - known[1]) / (count - known[0]), 2)
    return means


@contextmanager
def started(build: Build, settings: EngineConfig) -> Iterator[Engine]:
    """An engine that runs in this process."""
    engine = apart(build, settings)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop(0.0)


def pipeline_of(engine: Engine) -> Pipeline:
    """The pipeline of an engine that was not started: exactly what would serve."""
    return engine._pipeline


@contextmanager
def open_slots(engine: Engine, count: int) -> Iterator[list[int]]:
    slots = [engine.open_slot() for _ in range(count)]
    try:
        yield slots
    finally:
        for slot in slots:
            engine.close_slot(slot)


def closed_loop(
    engine: Engine, frames: Sequence[Frame], sessions: int, seconds: float, *, steps: int = 0, edits: Sequence[Edit]
) -> float:
    """Frames/s that an engine answers to sessions of which each has AHEAD frames waiting or in flight."""
    answered: queue.SimpleQueue[tuple[int, FrameAnswer | LegatoError]] = queue.SimpleQueue()
    with open_slots(engine, sessions) as slots:
        seqs = dict.fromkeys(slots, 0)

        def send(slot: int) -> None:
            seqs[slot] += 1
            frame = frames[(SHIFT * slot + seqs[slot]) % len(frames)]
            job = FrameJob(slot, seqs[slot], frame, tuple(edits), max_steps=steps, arrival=time.monotonic())
            engine.submit(job, lambda result: answered.put((slot, result)))

        def serve_until(over: Callable[[int], bool]) -> int:
            count = 0
            while not over(count):
                slot, result = answered.get(timeout=PATIENCE_SECONDS)
                if isinstance(result, LegatoError):
                    raise result
                count += 1
                send(slot)
            return count

        for slot in slots * AHEAD:
            send(slot)
        serve_until(lambda count: count >= WARM_BATCHES * sessions)
        begun = time.monotonic()
        count = serve_until(lambda count: time.monotonic() >= begun + seconds)
        elapsed = time.monotonic() - begun
        for _ in range(AHEAD * sessions):  # what is still on its way
            answered.get(timeout=PATIENCE_SECONDS)
    return count / elapsed


def alone(engine: Engine, work: Callable[[], float]) -> float:
    """What `work` gives on the thread of an engine that has nothing else to do: see `legato.threads`."""
    with engine.background.reserve() as place:
        found: float = place.submit(lambda pause: work()).result()
        return found


def bare_loop(
    pipeline: Pipeline,
    frames: Sequence[Frame],
    batch: int,
    seconds: float,
    *,
    steps: int = 0,
    edits: Sequence[Edit],
    encode: Callable[[Pixels], object] | None = None,
) -> float:
    """Frames/s of `Pipeline.run` alone, one batch after the other; `encode` is given its pictures in between."""
    for slot in range(batch):
        pipeline.reset(slot)
    number, begun = 0, time.monotonic()
    while number <= WARM_BATCHES or time.monotonic() < begun + seconds:
        if number == WARM_BATCHES:
            begun = time.monotonic()
        some = [frames[(SHIFT * slot + number) % len(frames)] for slot in range(batch)]
        jobs = [FrameJob(slot, number, frame, tuple(edits), max_steps=steps) for slot, frame in enumerate(some)]
        for answer in pipeline.run(jobs):
            if isinstance(answer, LegatoError):
                raise answer
            for pixels in (answer.reconstruction, answer.edited):
                if encode is not None and pixels is not None:
                    encode(pixels)
        number += 1
    return (number - WARM_BATCHES) * batch / (time.monotonic() - begun)
