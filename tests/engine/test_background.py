"""Long work in the engine's spare time: its queue, its turns with live frames, cancellation, stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest
import torch

from legato.background import Background, Pause, Place
from legato.engine import Engine
from legato.errors import InvalidInput, Overloaded, ShuttingDown
from legato.inversion.method import parse_method
from legato.inversion.methods import Networks, invert_clips
from legato.inversion.pauses import pausing
from legato.types import ClipAnswer, ClipJob, Frame, FrameAnswer, FrameJob
from tests.engine.test_engine import SOON, Gate, build, run, submit
from tests.pipeline.model import OVERFLOW, SMILE, Model, small_model, stream, to_image, to_pixels


def nothing() -> None:
    pass


class Runner:
    """A thread that runs the work of a queue, as the engine's does; `pauses` counts."""

    def __init__(self, capacity: int) -> None:
        self.woken = threading.Event()
        self.queue = Background(capacity, self.woken.set)
        self.pauses = 0

    def pause(self) -> None:
        self.pauses += 1

    def run(self) -> None:
        self.queue.run_next(self.pause)


def test_places_are_bounded_and_come_back() -> None:
    queue = Background(2, nothing)
    first, second = queue.reserve(), queue.reserve()
    with pytest.raises(Overloaded, match="all 2 places for clips are taken") as full:
        queue.reserve(retry_seconds=33.0)
    assert (full.value.reason, full.value.retry_seconds) == ("CLIPS_FULL", 33.0)
    second.leave()
    queue.reserve()
    first.leave()
    first.leave()  # once more changes nothing
    queue.reserve()
    with pytest.raises(Overloaded):
        queue.reserve()


def test_work_runs_one_at_a_time_in_the_order_of_submission_and_every_place_is_told() -> None:
    runner = Runner(3)
    told: list[tuple[str, int]] = []
    order: list[str] = []

    def put(name: str, work: Callable[[Pause], Any]) -> Future[Any]:
        return runner.queue.reserve().submit(work, lambda ahead: told.append((name, ahead)))

    def outer(pause: Pause) -> str:
        order.append("a")
        runner.run()  # as a step in one of its pauses would
        pause()
        return "done"

    a, b, c = put("a", outer), put("b", lambda pause: order.append("b")), put("c", lambda pause: order.append("c"))
    assert runner.woken.is_set()
    assert told == [("a", 0), ("b", 1), ("c", 2)]
    assert runner.queue.ready
    runner.run()
    assert (a.result(0), order, runner.pauses) == ("done", ["a"], 1)
    runner.run()
    runner.run()
    runner.run()
    assert b.done()
    assert c.done()
    assert order == ["a", "b", "c"]
    assert told[3:] == [("b", 0), ("c", 1), ("c", 0)]


def test_leaving_a_place_forgets_what_waits_and_ends_what_runs() -> None:
    runner = Runner(2)
    begun, left = threading.Event(), threading.Event()

    def endless(pause: Pause) -> None:
        begun.set()
        left.wait(SOON)
        while True:
            pause()

    with runner.queue.reserve() as place, runner.queue.reserve() as other:
        future, forgotten = place.submit(endless), other.submit(lambda pause: None)
        thread = threading.Thread(target=runner.run)
        thread.start()
        assert begun.wait(SOON)
    left.set()
    thread.join(SOON)
    assert not thread.is_alive()
    assert future.done()
    with pytest.raises(CancelledError):
        forgotten.result(0)
    assert not runner.queue.ready
    runner.queue.reserve()
    runner.queue.reserve()


def test_what_work_raises_reaches_its_future_and_nobody_else() -> None:
    runner = Runner(2)

    def broken(pause: Pause) -> None:
        raise InvalidInput("too short")

    failed = runner.queue.reserve().submit(broken)
    good = runner.queue.reserve().submit(lambda pause: 7)
    runner.run()
    runner.run()
    with pytest.raises(InvalidInput, match="too short"):
        failed.result(0)
    assert good.result(0) == 7


def test_a_closed_queue_takes_nothing_and_ends_what_waits() -> None:
    queue = Background(2, nothing)
    place, late = queue.reserve(), queue.reserve()
    future = place.submit(lambda pause: None)
    queue.close()
    with pytest.raises(ShuttingDown):
        future.result(0)
    with pytest.raises(ShuttingDown):
        late.submit(lambda pause: None)
    with pytest.raises(ShuttingDown):
        queue.reserve()


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def frames(model: Model) -> list[Frame]:
    return stream(model, 6)


@pytest.fixture
def engine(model: Model) -> Any:
    engine = build(model)
    engine.start()
    yield engine
    engine.stop(0.0)


def invert(engine: Engine, place: Place, frames: list[Frame], method: str, **options: Any) -> Future[ClipAnswer]:
    job = ClipJob(tuple(frames), method, **options)
    return place.submit(lambda pause: engine.clips.invert(job, pause))


def test_a_clip_comes_out_as_offline(engine: Engine, model: Model, frames: list[Frame]) -> None:
    told: list[tuple[int, int]] = []
    with engine.background.reserve() as place:
        future = invert(
            engine, place, frames, "consecutive:steps=2", edits=SMILE, on_step=lambda *step: told.append(step)
        )
        answer = future.result(SOON)
    images = torch.cat([to_image(frame) for frame in frames])
    with pausing(nothing, engine.options.clip_rows):
        (clip,) = invert_clips(
            Networks(model.generator, model.encoder), [images], parse_method("consecutive:steps=2")
        ).clips
        shown = clip.images(model.generator)
        moved = clip.images(model.generator, 1.5 * model.directions.vector("smile"))
    assert np.array_equal(answer.latents, clip.latents.numpy())
    assert answer.edited is not None
    for index, frame in enumerate(answer.frames):
        assert index == frame
        assert np.array_equal(answer.reconstruction[index], to_pixels(shown[index]))
        assert np.array_equal(answer.edited[index], to_pixels(moved[index]))
    assert told == [(1, 2), (2, 2)]
    assert answer.passes_per_frame == 4.0
    assert len(answer.psnr_db) == 6


def test_frames_are_answered_while_a_clip_is_worked_on(engine: Engine, frames: list[Frame]) -> None:
    """The clip cannot be done before all frames are answered: its own steps send them, one at a time."""
    slot = engine.open_slot()
    known = run(engine, *(FrameJob(slot, n, frames[n]) for n in range(6)))
    alone = [answer.reconstruction.tobytes() for answer in known if answer.reconstruction is not None]
    engine.reset_slot(slot)
    answers: list[Any] = []
    sent = [0]

    def send(done: int, total: int) -> None:
        if done > 6:
            return
        assert len(answers) == done - 1, "the last step's frame was answered before this step ended"
        engine.submit(FrameJob(slot, 10 + done, frames[done - 1]), answers.append)
        sent[0] += 1

    with engine.background.reserve() as place:
        invert(engine, place, frames, "consecutive:steps=8", on_step=send).result(SOON)
    assert sent == [6]
    assert all(isinstance(answer, FrameAnswer) for answer in answers)
    assert [answer.seq for answer in answers] == [11, 12, 13, 14, 15, 16]
    assert [answer.reconstruction.tobytes() for answer in answers] == alone


def test_frames_that_never_end_do_not_keep_a_clip_from_its_turn(
    engine: Engine, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legato.engine.PATIENCE_SECONDS", 0.01)
    over = threading.Event()

    def again(answer: object) -> None:
        if not over.is_set():
            engine.submit(FrameJob(-1, 0, frames[0]), again)

    for _ in range(3):
        engine.submit(FrameJob(-1, 0, frames[0]), again)
    with engine.background.reserve() as place:
        answer = invert(engine, place, frames[:2], "consecutive:steps=2").result(SOON)
    over.set()
    assert len(answer.frames) == 2


def test_a_clip_whose_caller_left_ends_and_the_next_one_begins(engine: Engine, frames: list[Frame]) -> None:
    begun = threading.Event()
    with engine.background.reserve() as place:
        future = invert(engine, place, frames, "consecutive:steps=1000000", on_step=lambda done, total: begun.set())
        assert begun.wait(SOON)
    with engine.background.reserve() as other:
        assert invert(engine, other, frames[:2], "encoder").result(SOON).frames == (0, 1)
    assert future.done()
    assert engine.ready


def test_the_heart_beats_while_a_clip_is_worked_on(engine: Engine, frames: list[Frame]) -> None:
    beats: set[float] = set()
    with engine.background.reserve() as place:
        invert(engine, place, frames, "consecutive:steps=4", on_step=lambda *step: beats.add(engine.heartbeat)).result(
            SOON
        )
    assert len(beats) == 4


def test_a_stop_ends_the_clip_that_runs_and_those_that_wait(model: Model, frames: list[Frame]) -> None:
    engine = build(model)
    engine.start()
    begun = threading.Event()
    running, waiting = engine.background.reserve(), engine.background.reserve()
    first = invert(engine, running, frames, "consecutive:steps=1000000", on_step=lambda *step: begun.set())
    second = invert(engine, waiting, frames, "encoder")
    assert begun.wait(SOON)
    engine.stop(0.0)
    for future in (first, second):
        with pytest.raises(ShuttingDown, match="before this clip was done"):
            future.result(SOON)
    with pytest.raises(ShuttingDown):
        engine.background.reserve()


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ("magic", 2, "no method is named 'magic'"),
        ("consecutive:steps=many", 2, "got 'many'"),
        ("consecutive", 1, "at least 2"),
        ("multi_code:codes=33", 2, "at most 32 codes"),
        ("w_plus:lr=1e300,steps=3", 2, "is not finite; lower the method's rate"),
    ],
)
def test_a_clip_that_cannot_be_is_told(
    engine: Engine, frames: list[Frame], text: str, count: int, message: str
) -> None:
    with engine.background.reserve() as place, pytest.raises(InvalidInput, match=message):
        invert(engine, place, frames[:count], text).result(SOON)


def test_an_idle_engine_starts_at_once(engine: Engine, frames: list[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    """Work wakes it: it does not wait for the end of its sleep."""
    monkeypatch.setattr("legato.engine.HEARTBEAT_SECONDS", 3600.0)
    run(engine, FrameJob(-1, 0, frames[0]))  # the next sleep is an endless one
    time.sleep(0.05)
    with engine.background.reserve() as place:
        invert(engine, place, frames[:1], "encoder").result(SOON)


def test_calls_that_wait_when_a_clip_comes_go_first(engine: Engine, frames: list[Frame]) -> None:
    gate = Gate(engine, frames[0])
    order: list[str] = []
    wait = submit(engine, FrameJob(-1, 1, frames[0]))
    engine.submit(FrameJob(-1, 2, frames[1]), lambda answer: order.append("frame"))
    with engine.background.reserve() as place:
        future = invert(engine, place, frames, "consecutive:steps=1", on_step=lambda *step: order.append("step"))
        gate.open()
        future.result(SOON)
    wait()
    assert order == ["frame", "step"]


def test_edits_that_leave_the_range_of_numbers_are_told(engine: Engine, frames: list[Frame]) -> None:
    with engine.background.reserve() as place, pytest.raises(InvalidInput, match="or the strengths") as told:
        invert(engine, place, frames[:2], "encoder", edits=OVERFLOW).result(SOON)
    assert told.value.field == "options.edits"
