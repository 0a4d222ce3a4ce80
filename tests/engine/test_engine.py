"""The engine with a real model: who is answered, when, with what, and what goes on after something failed."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from legato.calls import Stage
from legato.config import EngineConfig
from legato.engine import HEARTBEAT_SECONDS, Engine
from legato.engine_options import EngineOptions
from legato.errors import InvalidEdit, InvalidInput, LegatoError, NotFound, Overloaded, ShuttingDown
from legato.inversion import WindowOptions
from legato.scheduler import Scheduler
from legato.types import Edit, Frame, FrameAnswer, FrameJob, Outputs
from tests.engine.recorder import Recorder
from tests.pipeline.model import DIM, LAYERS, OVERFLOW, SIDE, SMILE, Model, small_model, stream

BUCKETS = (1, 2, 4)
SOON = 60.0  # seconds: far more than anything here takes
Result = FrameAnswer | LegatoError


class Gate:
    """Holds the engine's thread inside an answer until it is opened, so that the queue stands still."""

    def __init__(self, engine: Engine, frame: Frame) -> None:
        self._open, self._reached = threading.Event(), threading.Event()
        engine.submit(FrameJob(-1, 0, frame), self._hold)
        assert self._reached.wait(SOON)

    def _hold(self, result: Result) -> None:
        self._reached.set()
        self._open.wait(SOON)

    def open(self) -> None:
        self._open.set()


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def frames(model: Model) -> list[Frame]:
    return stream(model, 6)


def build(model: Model, *, capacity: int = 16, observer: Recorder | None = None, share: float = 0.0) -> Engine:
    return Engine(
        model.generator,
        model.encoder,
        model.directions,
        queue=Scheduler(capacity=capacity, buckets=BUCKETS, max_wait=0.001),
        options=EngineOptions(
            max_sessions=3,
            batch_buckets=BUCKETS,
            max_steps=4,
            precision="float32",
            window=WindowOptions(share=share, lr=0.5),
        ),
        name="small",
        observer=observer,
    )


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def engine(model: Model, recorder: Recorder) -> Iterator[Engine]:
    engine = build(model, observer=recorder)
    engine.start()
    yield engine
    engine.stop(0.0)


def submit(engine: Engine, *jobs: FrameJob) -> Callable[[], list[Result]]:
    """Submits jobs; the function it gives waits for an answer to each, in the order in which they came."""
    answered: queue.SimpleQueue[Result] = queue.SimpleQueue()
    for job in jobs:
        engine.submit(job, answered.put)
    return lambda: [answered.get(timeout=SOON) for _ in jobs]


def run(engine: Engine, *jobs: FrameJob) -> list[FrameAnswer]:
    results = submit(engine, *jobs)()
    assert all(isinstance(result, FrameAnswer) for result in results), results
    return [result for result in results if isinstance(result, FrameAnswer)]


def test_tells_what_it_serves(engine: Engine) -> None:
    assert (engine.model.name, engine.model.resolution, engine.model.layers, engine.model.dim) == (
        "small",
        SIDE,
        LAYERS,
        DIM,
    )
    assert [info.name for info in engine.directions] == ["overflow", "smile"]
    assert (engine.ready, engine.capacity, engine.queue_depth) == (True, 3, 0)


def test_frames_of_a_session_are_answered_in_order(engine: Engine, frames: list[Frame]) -> None:
    slots = [engine.open_slot(), engine.open_slot()]
    jobs = [FrameJob(slot, seq, frames[seq], SMILE, max_steps=1) for seq in range(4) for slot in slots]
    answers = run(engine, *jobs)
    assert [a.seq for a in answers] == sorted(a.seq for a in answers)
    assert sorted(a.state_version for a in answers) == [1, 1, 2, 2, 3, 3, 4, 4]
    for a in answers:
        assert a.edited is not None
        assert list(a.stage_seconds) == ["queue", "encode", "refine", "edit", "synthesize"]


def test_sessions_share_batches_and_observers_hear_of_it(
    engine: Engine, frames: list[Frame], recorder: Recorder
) -> None:
    gate = Gate(engine, frames[0])
    wait = submit(engine, *[FrameJob(engine.open_slot(), 1, frames[0]) for _ in range(3)], FrameJob(-1, 1, frames[1]))
    assert engine.queue_depth == 4
    recorder.heard.clear()
    gate.open()
    answers = wait()
    engine.stop(SOON)
    for stage in ("encode", "edit", "synthesize"):
        assert ("batch", stage, 4) in recorder.heard
    assert recorder.heard.count(("steps", 0)) == 4
    heard = [entry[1] for entry in recorder.heard if entry[0] == "psnr"]
    assert [a.psnr_db for a in answers if isinstance(a, FrameAnswer)] == heard
    assert ("queue", 0) in recorder.heard
    assert ("heartbeat",) in recorder.heard


def test_warm_up_is_not_observed(engine: Engine, recorder: Recorder) -> None:
    assert not [entry for entry in recorder.heard if entry[0] in ("batch", "steps", "psnr")]


def test_every_synthesis_is_of_a_size_that_was_warmed_up(
    model: Model, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what each of them costs is known before the first frame comes."""
    sizes: list[int] = []
    whole = model.generator.synthesize

    def counted(styles: list[torch.Tensor], *args: Any, **named: Any) -> torch.Tensor:
        sizes.append(styles[0].shape[0])
        return whole(styles, *args, **named)

    monkeypatch.setattr(model.generator, "synthesize", counted)
    queue = Scheduler(capacity=16, buckets=(1, 2), max_wait=0.001)
    options = EngineOptions(max_sessions=3, batch_buckets=(1, 2), max_steps=1, precision="float32")
    engine = Engine(model.generator, model.encoder, model.directions, queue=queue, options=options)
    engine.start()
    warm = set(sizes)
    assert warm == set(options.image_sizes) == set(range(1, 9))
    assert all(queue.costs.of(Stage.SYNTHESIZE, size) > 0 for size in warm)
    sizes.clear()
    variants = tuple((Edit("smile", strength),) for strength in range(-5, 6))
    jobs = [FrameJob(-1, 1, frames[0], SMILE, variants=variants), FrameJob(-1, 2, frames[1], variants=variants[:3])]
    first, second = sorted(run(engine, *jobs), key=lambda answer: answer.seq)
    engine.stop(SOON)
    assert (len(first.variants), len(second.variants)) == (11, 3)
    assert sum(sizes) == 13 + 4
    assert set(sizes) <= warm


def test_image_sizes_reach_the_largest_bucket() -> None:
    assert EngineOptions(batch_buckets=(1,)).image_sizes == (1, 2, 3, 4, 5, 6, 7, 8)
    assert EngineOptions(batch_buckets=(1, 4, 12, 32)).image_sizes == (1, 2, 3, 4, 5, 6, 7, 8, 12, 32)


def test_a_full_queue_refuses_at_the_door(model: Model, frames: list[Frame]) -> None:
    engine = build(model, capacity=2)
    engine.start()
    gate = Gate(engine, frames[0])
    wait = submit(engine, FrameJob(-1, 1, frames[0]), FrameJob(-1, 2, frames[0]))
    with pytest.raises(Overloaded) as caught:
        engine.submit(FrameJob(-1, 3, frames[0]), lambda result: pytest.fail("this frame was refused"))
    assert caught.value.reason == "QUEUE_FULL"
    gate.open()
    assert sorted(result.seq for result in wait() if isinstance(result, FrameAnswer)) == [1, 2]
    engine.stop(SOON)


def test_a_waiting_frame_can_be_taken_back(engine: Engine, frames: list[Frame]) -> None:
    slot = engine.open_slot()
    gate = Gate(engine, frames[0])
    engine.submit(FrameJob(slot, 1, frames[0]), lambda result: pytest.fail("this frame was taken back"))
    wait = submit(engine, FrameJob(slot, 2, frames[1]))
    assert engine.cancel(slot, 1)
    assert not engine.cancel(slot, 1)
    gate.open()
    (second,) = wait()
    assert isinstance(second, FrameAnswer)
    assert (second.seq, second.state_version) == (2, 1)
    assert not engine.cancel(slot, 2)


def test_slots_run_out_and_come_back_fresh(engine: Engine, frames: list[Frame]) -> None:
    slots = [engine.open_slot() for _ in range(3)]
    assert sorted(slots) == [0, 1, 2]
    with pytest.raises(Overloaded, match="3 sessions") as caught:
        engine.open_slot()
    assert caught.value.reason == "SESSIONS_FULL"
    asked = Outputs(latents=True)
    first = run(engine, FrameJob(slots[0], 1, frames[0], outputs=asked, max_steps=2))[0]
    run(engine, FrameJob(slots[0], 2, frames[1], max_steps=2))
    engine.close_slot(slots[0])
    assert engine.open_slot() == slots[0]
    again = run(engine, FrameJob(slots[0], 1, frames[0], outputs=asked, max_steps=2))[0]
    np.testing.assert_array_equal(first.latents, again.latents)
    assert again.state_version == 1
    engine.reset_slot(slots[0])
    assert run(engine, FrameJob(slots[0], 2, frames[0]))[0].state_version == 1


def test_closing_answers_what_waited(engine: Engine, frames: list[Frame]) -> None:
    slot = engine.open_slot()
    gate = Gate(engine, frames[0])
    wait = submit(engine, FrameJob(slot, 1, frames[0]), FrameJob(slot, 2, frames[1]))
    engine.close_slot(slot)
    gate.open()
    results = wait()
    assert [type(result) for result in results] == [NotFound, NotFound]
    assert {result.reason for result in results if isinstance(result, LegatoError)} == {"SESSION_CLOSED"}
    with pytest.raises(ValueError, match="not open"):
        engine.close_slot(slot)
    with pytest.raises(ValueError, match="not open"):
        engine.reset_slot(17)


def test_an_unexpected_error_answers_its_batch_and_tells_only_an_id(
    engine: Engine, model: Model, frames: list[Frame], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slot = engine.open_slot()
    run(engine, FrameJob(slot, 1, frames[0], max_steps=1))

    def broken(image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the secret path /etc/model")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(model.encoder, "forward", broken)
        results = submit(engine, FrameJob(slot, 2, frames[1]), FrameJob(-1, 2, frames[1]))()
    for result in results:
        assert type(result) is LegatoError
        assert (result.status, result.reason) == ("INTERNAL", "INTERNAL")
        assert "secret" not in str(result)
        assert str(result).split()[2].rstrip(";") in caplog.text  # the id
    assert "the secret path" in caplog.text
    assert run(engine, FrameJob(slot, 3, frames[1], max_steps=1))[0].state_version == 2


def test_a_bad_frame_is_its_sessions_alone(engine: Engine, frames: list[Frame]) -> None:
    slots = [engine.open_slot() for _ in range(3)]
    gate = Gate(engine, frames[0])
    jobs = [
        FrameJob(slots[0], 1, frames[0], OVERFLOW),
        FrameJob(slots[1], 2, frames[0], (Edit("nose", 1.0),)),
        FrameJob(slots[2], 3, frames[0]),
    ]
    wait = submit(engine, *jobs)
    gate.open()
    by_kind = {type(result).__name__: result for result in wait()}
    assert by_kind.keys() == {"LegatoError", "InvalidEdit", "FrameAnswer"}
    assert isinstance(by_kind["InvalidEdit"], InvalidEdit)
    assert [a.state_version for a in run(engine, *[FrameJob(slot, 9, frames[1]) for slot in slots])].count(1) == 2


def test_a_receiver_that_fails_harms_nobody(
    engine: Engine, frames: list[Frame], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(result: Result) -> None:
        raise KeyError("gone")

    engine.submit(FrameJob(-1, 1, frames[0]), broken)
    assert run(engine, FrameJob(-1, 2, frames[0]))[0].seq == 2
    assert "gone" in caplog.text


def test_synthesis_runs_between_the_frames(engine: Engine, frames: list[Frame]) -> None:
    made = engine.synthesize(seed=5, truncation=0.5, edits=SMILE).result(SOON)
    assert made.image.shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(engine.synthesize(made.latents, edits=SMILE).result(SOON).image, made.image)
    with pytest.raises(InvalidInput, match="latents"):
        engine.synthesize(np.zeros((1, 1), np.float32)).result(SOON)
    with pytest.raises(InvalidEdit, match="nose"):
        engine.synthesize(edits=[Edit("nose", 1.0)]).result(SOON)
    gate = Gate(engine, frames[0])
    regretted = engine.synthesize(seed=6)
    assert regretted.cancel()
    gate.open()
    assert run(engine, FrameJob(-1, 1, frames[0]))[0].seq == 1


def test_an_idle_engine_shows_that_it_lives(engine: Engine) -> None:
    seen, end = engine.heartbeat, time.monotonic() + SOON
    while engine.heartbeat == seen and time.monotonic() < end:
        time.sleep(HEARTBEAT_SECONDS / 4)
    assert engine.heartbeat > seen


def test_stop_finishes_what_waits_and_refuses_what_comes(model: Model, frames: list[Frame]) -> None:
    engine = build(model)
    engine.start()
    gate = Gate(engine, frames[0])
    wait = submit(engine, *[FrameJob(-1, seq, frames[0]) for seq in range(6)])
    stopping = threading.Thread(target=engine.stop, args=(SOON,))
    stopping.start()
    while engine.ready:
        time.sleep(0.001)
    with pytest.raises(ShuttingDown):
        engine.submit(FrameJob(-1, 9, frames[0]), lambda result: None)
    gate.open()
    stopping.join(SOON)
    assert sorted(result.seq for result in wait() if isinstance(result, FrameAnswer)) == list(range(6))
    engine.stop(0.0)  # a second stop does no harm


def test_stop_without_time_answers_the_rest(model: Model, frames: list[Frame]) -> None:
    engine = build(model)
    engine.start()
    gate = Gate(engine, frames[0])
    wait = submit(engine, FrameJob(-1, 1, frames[0]), FrameJob(engine.open_slot(), 2, frames[0]))
    future = engine.synthesize(seed=1)
    stopping = threading.Thread(target=engine.stop, args=(0.0,))
    stopping.start()
    while engine.ready:
        time.sleep(0.001)
    gate.open()
    stopping.join(SOON)
    assert [type(result) for result in wait()] == [ShuttingDown, ShuttingDown]
    with pytest.raises(ShuttingDown):
        future.result(SOON)


def test_a_warm_up_that_fails_is_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(model.encoder, "forward", broken)
    engine = build(model)
    with pytest.raises(RuntimeError, match="no such kernel"):
        engine.start()
    assert not engine.ready
    with pytest.raises(ShuttingDown):
        engine.submit(FrameJob(-1, 1, Frame(np.zeros((SIDE, SIDE, 3), np.uint8))), lambda result: None)


def test_settings_of_a_server_default_to_those_of_the_engine() -> None:
    settings, options = EngineConfig(), EngineOptions()
    for name in (
        "max_sessions",
        "batch_buckets",
        "in_flight",
        "max_steps",
        "threads",
        "precision",
        "clips",
        "clip_rows",
    ):
        assert getattr(settings, name) == getattr(options, name), name
    for name in ("lr", "flow_weight", "prior_weight"):
        assert getattr(settings, f"refine_{name}") == getattr(options.tracker, name), name
