"""Frames between two of their steps: who joins them, and what becomes of them when something happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from legato.engine import Engine
from legato.errors import DeadlineMissed, LegatoError, NotFound, Overloaded
from legato.inversion import Tracker
from legato.types import Frame, FrameAnswer, FrameJob, Outputs
from tests.engine.recorder import Recorder
from tests.engine.test_engine import SOON, Gate, build, run, submit
from tests.pipeline.model import SIDE, Model, small_model, stream


class Meddler(Recorder):
    """An observer that does something once, after the first refine step that the engine takes."""

    def __init__(self) -> None:
        super().__init__()
        self.act: Callable[[], None] = lambda: None

    def batch(self, stage: str, size: int, seconds: float) -> None:
        super().batch(stage, size, seconds)
        if stage == "refine":
            act, self.act = self.act, lambda: None
            act()


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def frames(model: Model) -> list[Frame]:
    return stream(model, 4)


@pytest.fixture
def meddler() -> Meddler:
    return Meddler()


@pytest.fixture
def engine(model: Model, meddler: Meddler) -> Iterator[Engine]:
    engine = build(model, observer=meddler)
    engine.start()
    yield engine
    engine.stop(0.0)


def test_a_frame_joins_the_steps_of_another_and_leaves_before_it(
    engine: Engine, meddler: Meddler, frames: list[Frame]
) -> None:
    slots = [engine.open_slot(), engine.open_slot()]
    late: list[Callable[[], list[FrameAnswer | LegatoError]]] = []
    meddler.act = lambda: late.append(submit(engine, FrameJob(slots[1], 7, frames[0], max_steps=1)))
    (first,) = run(engine, FrameJob(slots[0], 1, frames[0], max_steps=4))
    (second,) = late[0]()
    assert isinstance(second, FrameAnswer)
    assert (first.steps, second.steps) == (4, 1)
    steps = [entry[2] for entry in meddler.heard if entry[:2] == ("batch", "refine")]
    assert steps == [1, 2, 1, 1]
    answered = [entry[1] for entry in meddler.heard if entry[0] == "steps"]
    assert sorted(answered) == [1, 4]


def test_a_session_that_is_closed_takes_its_frame_out_of_the_next_step(
    engine: Engine, meddler: Meddler, frames: list[Frame]
) -> None:
    slot, other = engine.open_slot(), engine.open_slot()
    meddler.act = lambda: engine.close_slot(slot)
    wait = submit(engine, FrameJob(slot, 1, frames[0], max_steps=4), FrameJob(slot, 2, frames[1]))
    results = wait()
    assert [type(result) for result in results] == [NotFound, NotFound]
    assert [entry for entry in meddler.heard if entry[:2] == ("batch", "refine")] == [("batch", "refine", 1)]
    assert engine.open_slot() == slot
    asked = Outputs(latents=True)
    again, fresh = (run(engine, FrameJob(s, 1, frames[0], outputs=asked, max_steps=1))[0] for s in (slot, other))
    assert again.state_version == 1
    np.testing.assert_array_equal(again.latents, fresh.latents)


def test_a_slot_that_is_reset_learns_nothing_of_the_frame_in_flight(
    engine: Engine, meddler: Meddler, frames: list[Frame]
) -> None:
    slot, other = engine.open_slot(), engine.open_slot()
    meddler.act = lambda: engine.reset_slot(slot)
    (first,) = run(engine, FrameJob(slot, 1, frames[0], max_steps=3))
    assert first.steps == 3
    asked = Outputs(latents=True)
    again, fresh = (run(engine, FrameJob(s, 2, frames[1], outputs=asked))[0] for s in (slot, other))
    assert again.state_version == 1
    np.testing.assert_array_equal(again.latents, fresh.latents)


def test_a_step_that_fails_ends_its_frames_and_touches_no_state(
    engine: Engine, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = engine.open_slot()
    run(engine, FrameJob(slot, 1, frames[0], max_steps=1))

    def broken(*_: object) -> None:
        raise RuntimeError("out of something")

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "step", broken)
        results = submit(
            engine, *[FrameJob(s, 2, frames[1], max_steps=2) for s in (slot, -1)], FrameJob(-1, 3, frames[1])
        )()
    assert sorted(type(result).__name__ for result in results) == ["FrameAnswer", "LegatoError", "LegatoError"]
    assert run(engine, FrameJob(slot, 3, frames[1], max_steps=1))[0].state_version == 2


def test_a_near_deadline_leaves_no_time_for_steps(engine: Engine, frames: list[Frame]) -> None:
    slot = engine.open_slot()
    now = time.monotonic()
    (hurried,) = run(engine, FrameJob(slot, 1, frames[0], max_steps=4, deadline=now))
    (patient,) = run(engine, FrameJob(slot, 2, frames[1], max_steps=4, deadline=now + SOON))
    assert (hurried.steps, patient.steps) == (0, 4)


def test_what_may_be_dropped_is_dropped_when_it_is_too_late(engine: Engine, frames: list[Frame]) -> None:
    slot = engine.open_slot()
    (result,) = submit(engine, FrameJob(slot, 1, frames[0], deadline=time.monotonic(), droppable=True))()
    assert isinstance(result, DeadlineMissed)
    assert result.reason == "DEADLINE_MISSED"
    assert run(engine, FrameJob(slot, 2, frames[0], droppable=True))[0].state_version == 1


def test_an_engine_that_is_overloaded_takes_no_new_session(model: Model, frames: list[Frame]) -> None:
    engine = build(model, capacity=2)
    engine.start()
    gate = Gate(engine, frames[0])
    wait = submit(engine, *[FrameJob(-1, seq, frames[0]) for seq in range(2)])
    for _ in range(20):
        with pytest.raises(Overloaded):
            engine.submit(FrameJob(-1, 3, frames[0]), lambda result: None)
    with pytest.raises(Overloaded, match="than can be answered in time") as caught:
        engine.open_slot()
    assert (caught.value.reason, caught.value.status) == ("OVERLOADED", "RESOURCE_EXHAUSTED")
    gate.open()
    wait()
    time.sleep(1.0)  # as long as it looks back
    engine.open_slot()
    engine.stop(SOON)


def test_it_tells_what_a_session_costs(engine: Engine, meddler: Meddler) -> None:
    ((_, session, in_flight),) = [entry for entry in meddler.heard if entry[0] == "memory"]
    assert in_flight > session > 3 * SIDE**2 * 4
