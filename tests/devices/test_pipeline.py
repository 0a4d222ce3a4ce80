"""The pipeline and the engine on a device that captures and computes ahead: the same answers, frame by frame."""

from __future__ import annotations

import queue

import numpy as np
import pytest
import torch

from legato.engine import Engine
from legato.engine_options import EngineOptions
from legato.flights import Flight
from legato.pipeline import Pipeline
from legato.scheduler import Scheduler
from legato.types import Edit, Frame, FrameAnswer, FrameJob, Outputs
from legato.warmup import warm_up
from tests.devices.emulated import EmulatedDevice
from tests.engine.recorder import Recorder
from tests.engine.test_engine import SOON
from tests.pipeline.model import OVERFLOW, SMILE, Model, small_model, stream
from tests.tolerances import GRAPH_LEVELS, GRAPH_RMS

BUCKETS = (1, 2, 4)
ALL = Outputs(latents=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def scenes(model: Model) -> list[list[Frame]]:
    return [stream(model, 3, seed) for seed in range(3)]


def pipeline(model: Model, device: EmulatedDevice | None = None) -> Pipeline:
    return Pipeline(model.generator, model.encoder, model.directions, slots=4, max_steps=4, runner=device)


def check(found: FrameAnswer, wanted: FrameAnswer) -> None:
    assert (found.seq, found.steps, found.state_version) == (wanted.seq, wanted.steps, wanted.state_version)
    assert found.latents is not None
    assert wanted.latents is not None
    off = np.sqrt(np.square(found.latents - wanted.latents).mean()) / wanted.latents.std()
    assert off <= GRAPH_RMS
    for mine, theirs in ((found.reconstruction, wanted.reconstruction), (found.edited, wanted.edited)):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert np.abs(mine.astype(int) - theirs.astype(int)).mean() <= GRAPH_LEVELS


def play(pipeline: Pipeline, scenes: list[list[Frame]]) -> list[FrameAnswer]:
    """Three sessions side by side, of one, two and three steps a frame, with and without edits."""
    answers = []
    for t in range(3):
        jobs = [
            FrameJob(slot, t, scene[t], SMILE if slot != 1 else (), ALL, max_steps=slot + 1)
            for slot, scene in enumerate(scenes)
        ]
        answers += pipeline.run(jobs)
    found = [answer for answer in answers if isinstance(answer, FrameAnswer)]
    assert len(found) == len(answers)
    return found


def test_a_captured_pipeline_gives_the_same_answers(model: Model, scenes: list[list[Frame]]) -> None:
    device = EmulatedDevice()
    captured = pipeline(model, device)
    assert warm_up(captured, BUCKETS, lambda: None) == 4
    assert captured.runner.prepared()["encode"] == (3, 0)
    assert captured.runner.prepared()["synthesize"] == (8, 0)  # reconstructions and edited images
    assert captured.runner.prepared()["refine"] == (3, 0)
    with captured.runner.preparing():
        play(captured, scenes)
    for slot in range(3):
        captured.reset(slot)
    for found, wanted in zip(play(captured, scenes), play(pipeline(model), scenes), strict=True):
        check(found, wanted)
        assert set(found.stage_seconds) == set(wanted.stage_seconds)
    assert not any(direct for _, direct in captured.runner.prepared().values())


def test_a_frame_that_is_spoiled_leaves_no_trace(model: Model, scenes: list[list[Frame]]) -> None:
    device = EmulatedDevice()
    captured = pipeline(model, device)
    first = FrameJob(0, 0, scenes[0][0], outputs=ALL, max_steps=1)
    second = FrameJob(0, 1, scenes[0][1], outputs=ALL, max_steps=1)
    (before,) = captured.run([first])
    flights = [f for f in captured.begin([FrameJob(0, 9, scenes[0][2], OVERFLOW)]) if isinstance(f, Flight)]
    land = captured.conclude(flights)
    assert [type(answer).__name__ for answer in land()] == ["LegatoError"]
    found = captured.run([second])[0]
    plain = pipeline(model)
    assert isinstance(before, FrameAnswer)
    assert isinstance(found, FrameAnswer)
    check(before, plain.run([first])[0])  # type: ignore[arg-type]
    check(found, plain.run([second])[0])  # type: ignore[arg-type]


def test_a_slot_that_is_reset_before_its_frame_lands_stays_fresh(model: Model, scenes: list[list[Frame]]) -> None:
    ahead = pipeline(model, EmulatedDevice())
    ahead.run([FrameJob(0, 0, scenes[0][0], max_steps=1)])
    for leave in (False, True):
        flights = ahead.begin([FrameJob(0, 1, scenes[0][1], max_steps=1)])
        ahead.step(flights)  # type: ignore[arg-type]
        land = ahead.conclude(flights)  # type: ignore[arg-type]
        if leave:
            ahead.abandon(flights)  # type: ignore[arg-type]
        ahead.reset(0)
        land()
        again = ahead.run([FrameJob(0, 2, scenes[0][0], outputs=ALL)])[0]
        assert isinstance(again, FrameAnswer)
        assert again.state_version == 1
        with torch.inference_mode():
            encoded = ahead.run([FrameJob(-1, 2, scenes[0][0], outputs=ALL)])[0]
        assert isinstance(encoded, FrameAnswer)
        np.testing.assert_array_equal(again.latents, encoded.latents)
        ahead.reset(0)


def test_an_engine_that_computes_ahead_answers_frames_that_join_and_leave(
    model: Model, scenes: list[list[Frame]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, device = Recorder(), EmulatedDevice(refused=("encode",))
    monkeypatch.setattr("legato.pipeline.open_device", lambda place: device)
    engine = Engine(
        model.generator,
        model.encoder,
        model.directions,
        queue=Scheduler(capacity=32, buckets=BUCKETS, max_wait=0.001),
        options=EngineOptions(max_sessions=4, batch_buckets=BUCKETS, max_steps=4, precision="float32"),
        observer=recorder,
    )
    monkeypatch.undo()
    engine.start()
    assert ("graphs", "encode", 0, 3) in recorder.heard
    assert ("graphs", "synthesize", 8, 0) in recorder.heard
    answered: queue.SimpleQueue[object] = queue.SimpleQueue()
    slots = [engine.open_slot() for _ in scenes]
    jobs = [
        FrameJob(slot, t, scenes[slot][t], (Edit("smile", 1.0),), ALL, max_steps=slot)
        for t in range(3)
        for slot in slots
    ]
    for job in jobs:
        engine.submit(job, answered.put)
    answers = [answered.get(timeout=SOON) for _ in jobs]
    engine.stop(SOON)
    assert engine.over.result() is None
    found = {(a.seq, a.steps): a for a in answers if isinstance(a, FrameAnswer)}
    assert len(found) == len(jobs)
    plain = pipeline(model)
    for t in range(3):
        wanted = plain.run([FrameJob(s, t, scenes[s][t], (Edit("smile", 1.0),), ALL, max_steps=s) for s in slots])
        for answer in wanted:
            assert isinstance(answer, FrameAnswer)
            check(found[t, answer.steps], answer)
