"""The engine's path on a GPU: graphs against no graphs, the GPU against the CPU, nothing that waits without need."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest
import torch

from legato.devices import find_device, open_device
from legato.engine import Engine
from legato.engine_options import EngineOptions
from legato.flights import Flight
from legato.pipeline import Pipeline
from legato.scheduler import Scheduler
from legato.types import Frame, FrameAnswer, FrameJob
from legato.warmup import warm_up
from tests.devices.test_pipeline import ALL, BUCKETS, check, play
from tests.engine.recorder import Recorder
from tests.engine.test_engine import SOON
from tests.pipeline.model import SMILE, Model, small_model, stream

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def plain_arithmetic() -> Iterator[None]:
    """float32 is float32, and torch's other implementations, which conftest.py asks for, are not what a server runs."""
    torch.use_deterministic_algorithms(False)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture(scope="module")
def scenes() -> list[list[Frame]]:
    return [stream(small_model(), 3, seed) for seed in range(3)]


def on_gpu() -> Model:
    model, place = small_model(), find_device("cuda")
    return Model(model.generator.to(place), model.encoder.to(place), model.directions.to(place))


def pipeline(model: Model) -> Pipeline:
    return Pipeline(model.generator, model.encoder, model.directions, slots=4, max_steps=4)


def test_every_stage_is_captured_and_answers_as_without_graphs_and_as_on_the_cpu(scenes: list[list[Frame]]) -> None:
    model = on_gpu()
    captured = pipeline(model)
    assert warm_up(captured, BUCKETS, lambda: None) == BUCKETS[-1]
    assert captured.runner.prepared() == {"encode": (3, 0), "refine": (3, 0), "synthesize": (8, 0)}
    found = play(captured, scenes)
    assert not any(direct for _, direct in captured.runner.prepared().values())
    for direct in (pipeline(model), pipeline(small_model())):  # one that nothing was captured in, one on the CPU
        for mine, theirs in zip(found, play(direct, scenes), strict=True):
            check(mine, theirs)
    assert all(seconds > 0 for answer in found for seconds in answer.stage_seconds.values())


def test_nothing_waits_between_upload_and_download(scenes: list[list[Frame]]) -> None:
    """Once all is allocated: torch itself raises where it would wait."""
    ahead = pipeline(on_gpu())
    warm_up(ahead, BUCKETS, lambda: None)
    play(ahead, scenes)
    jobs = [FrameJob(slot, 9, scene[0], SMILE, ALL, max_steps=1) for slot, scene in enumerate(scenes)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        flights = [flight for flight in ahead.begin(jobs) if isinstance(flight, Flight)]
        ahead.step(flights)
        land = ahead.conclude(flights)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(isinstance(answer, FrameAnswer) for answer in land())


def test_an_engine_answers_frames_that_join_and_leave(scenes: list[list[Frame]]) -> None:
    model, recorder = on_gpu(), Recorder()
    engine = Engine(
        model.generator,
        model.encoder,
        model.directions,
        queue=Scheduler(capacity=32, buckets=BUCKETS, max_wait=0.001),
        options=EngineOptions(max_sessions=4, batch_buckets=BUCKETS, max_steps=4, precision="float32"),
        observer=recorder,
    )
    engine.start()
    assert ("graphs", "refine", 3, 0) in recorder.heard
    answered: queue.SimpleQueue[object] = queue.SimpleQueue()
    slots = [engine.open_slot() for _ in scenes]
    jobs = [FrameJob(s, t, scenes[s][t], SMILE, ALL, max_steps=s) for t in range(3) for s in slots]
    for job in jobs:
        engine.submit(job, answered.put)
    answers = [answered.get(timeout=SOON) for _ in jobs]
    engine.stop(SOON)
    found = {(a.seq, a.steps): a for a in answers if isinstance(a, FrameAnswer)}
    assert len(found) == len(jobs)
    plain = pipeline(small_model())
    for t in range(3):
        for answer in plain.run([FrameJob(s, t, scenes[s][t], SMILE, ALL, max_steps=s) for s in slots]):
            assert isinstance(answer, FrameAnswer)
            check(found[t, answer.steps], answer)


def test_a_device_that_computes_is_usable() -> None:
    device = open_device(find_device("cuda"))
    assert device.usable()
    began = device.mark()
    torch.cuda._sleep(1_000_000)
    assert device.seconds(began, device.mark()) > 0.0
