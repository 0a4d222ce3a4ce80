"""A device without the memory for a batch: batches become smaller, no frame is lost, and the service goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from legato.errors import DeviceLost, LegatoError, OutOfMemory
from legato.types import ClipJob, Frame, FrameAnswer, FrameJob, Outputs
from tests.engine.recorder import Recorder
from tests.engine.test_engine import SOON, Gate, build, run, submit
from tests.pipeline.model import Model, small_model, stream
from tests.tolerances import BATCH_LATENTS_FLOAT32

ALL = Outputs(latents=True)


class Limited:
    """Gives a network no memory for more than `rows` rows."""

    def __init__(self, network: nn.Module) -> None:
        self._forward = network.forward
        self.rows = 1_000_000

    def __call__(self, x: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if len(x) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nand a page of figures")
        return self._forward(x, *rest, **options)


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def frames(model: Model) -> list[Frame]:
    return stream(model, 4)


@contextmanager
def limited(model: Model, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Limited]:
    network = getattr(model, name)
    limit = Limited(network)
    with monkeypatch.context() as patch:
        patch.setattr(network, "forward", limit)
        yield limit


@pytest.mark.parametrize(("name", "steps"), [("encoder", 1), ("generator", 1), ("generator", 0)])
def test_a_batch_without_memory_runs_again_in_smaller_ones(
    model: Model,
    frames: list[Frame],
    name: str,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder()
    with limited(model, name, monkeypatch) as limit:
        engine = build(model, observer=recorder)
        engine.start()
        slots = [engine.open_slot() for _ in range(3)]
        gate = Gate(engine, frames[0])
        jobs = [
            FrameJob(slot, 1, frame, outputs=ALL, max_steps=steps) for slot, frame in zip(slots, frames, strict=False)
        ]
        wait = submit(engine, *jobs, FrameJob(-1, 1, frames[3], outputs=ALL, max_steps=steps))
        limit.rows = 2
        with caplog.at_level(logging.ERROR):
            gate.open()
            answers = wait()
        assert ("largest_batch", 4, False) in recorder.heard
        assert ("largest_batch", 2, True) in recorder.heard
        recorder.heard.clear()
        again = Gate(engine, frames[0])
        wait = submit(engine, *[FrameJob(-1, 2, frame, max_steps=steps) for frame in frames])
        again.open()
        wait()
        engine.stop(SOON)
    assert max(size for _, _, size in [h for h in recorder.heard if h[0] == "batch"]) == 2
    assert not [heard for heard in recorder.heard if heard[0] == "largest_batch"]
    (record,) = [record for record in caplog.records if record.message.startswith("out of memory")]
    assert record.fields["why"] == "CUDA out of memory. Tried to allocate 20.00 MiB."  # type: ignore[attr-defined]
    plain = build(model)
    plain.start()
    wanted = run(plain, *[FrameJob(-1, 1, frame, outputs=ALL, max_steps=steps) for frame in frames])
    plain.stop(SOON)
    found = [answer for answer in answers if isinstance(answer, FrameAnswer)]
    assert [answer.steps for answer in found] == [steps] * 4
    codes = sorted((answer.latents for answer in found if answer.latents is not None), key=lambda w: float(w.sum()))
    expected = sorted((answer.latents for answer in wanted if answer.latents is not None), key=lambda w: float(w.sum()))
    np.testing.assert_allclose(np.stack(codes), np.stack(expected), **BATCH_LATENTS_FLOAT32)


@pytest.mark.parametrize(("name", "steps"), [("encoder", 0), ("generator", 1), ("generator", 0)])
def test_a_frame_alone_without_memory_fails_and_the_next_one_does_not(
    model: Model, frames: list[Frame], name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    with limited(model, name, monkeypatch) as limit:
        engine = build(model, observer=recorder)
        engine.start()
        slot = engine.open_slot()
        limit.rows = 0
        (failed,) = submit(engine, FrameJob(slot, 1, frames[0], max_steps=steps))()
        assert isinstance(failed, OutOfMemory)
        assert (failed.status, failed.reason) == ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY")
        assert failed.retry_seconds > 0
        assert ("largest_batch", 1, True) in recorder.heard
        limit.rows = 4
        (answer,) = run(engine, FrameJob(slot, 2, frames[1], max_steps=steps))
        assert answer.state_version == 1
        engine.stop(SOON)


def test_the_warm_up_finds_the_largest_batch(
    model: Model, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    with limited(model, "encoder", monkeypatch) as limit:
        limit.rows = 3
        engine = build(model, observer=recorder)
        engine.start()
        assert [heard for heard in recorder.heard if heard[0] == "largest_batch"] == [
            ("largest_batch", 4, False),
            ("largest_batch", 2, True),
        ]
        gate = Gate(engine, frames[0])
        wait = submit(engine, *[FrameJob(-1, 1, frame) for frame in frames])
        gate.open()
        assert all(isinstance(answer, FrameAnswer) for answer in wait())
        engine.stop(SOON)
        limit.rows = 0
        engine = build(model)
        with pytest.raises(OutOfMemory, match="one frame of this model"):
            engine.start()


def test_a_clip_without_memory_is_told_so(model: Model, frames: list[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    with limited(model, "encoder", monkeypatch) as limit:
        engine = build(model)
        engine.start()
        limit.rows = 0
        job = ClipJob(frames=tuple(frames[:2]), method="encoder")
        with engine.background.reserve() as place:
            future = place.submit(lambda pause: engine.clips.invert(job, pause))
            with pytest.raises(OutOfMemory, match="this clip"):
                future.result(SOON)
        engine.stop(SOON)


@pytest.mark.parametrize("in_clip", [False, True])
def test_a_device_that_is_lost_ends_the_engine_and_health_hears_of_it_first(
    model: Model, frames: list[Frame], in_clip: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []
    engine = build(model)
    engine.start()
    engine.over.add_done_callback(lambda over: order.append("over"))
    gate = Gate(engine, frames[0])
    results: list[FrameAnswer | LegatoError] = []

    def lost(*arguments: Any) -> Any:
        monkeypatch.setattr(type(engine._pipeline.runner), "usable", lambda self: False)
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nand more")

    def answered(result: FrameAnswer | LegatoError) -> None:
        order.append("answer")
        results.append(result)

    with caplog.at_level(logging.CRITICAL), monkeypatch.context() as patch:
        patch.setattr(model.encoder, "forward", lost)
        if in_clip:
            place = engine.background.reserve()
            place.submit(lambda pause: engine.clips.invert(ClipJob(tuple(frames[:2]), "encoder"), pause))
        else:
            engine.submit(FrameJob(-1, 1, frames[0]), answered)
            engine.submit(FrameJob(-1, 2, frames[0]), answered)
        gate.open()
        assert isinstance(engine.over.exception(SOON), DeviceLost)
        engine.stop(SOON)
    assert order == ["over"] + ([] if in_clip else ["answer", "answer"])
    assert not engine.ready
    assert {result.status for result in results if isinstance(result, LegatoError)} <= {"UNAVAILABLE"}
    (line,) = [record.getMessage() for record in caplog.records]
    assert "CUDA error: an illegal memory access was encountered)" in line
    assert "this process ends" in line


def test_an_error_that_passes_does_not_end_the_engine(
    model: Model, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = build(model)
    engine.start()
    with monkeypatch.context() as patch:

        def invalid(*arguments: Any) -> Any:
            raise torch.AcceleratorError("CUDA error: invalid configuration argument")

        patch.setattr(model.encoder, "forward", invalid)
        (failed,) = submit(engine, FrameJob(-1, 1, frames[0]))()
        assert isinstance(failed, LegatoError)
        assert failed.reason == "INTERNAL"
    assert run(engine, FrameJob(-1, 2, frames[0]))
    engine.stop(SOON)
