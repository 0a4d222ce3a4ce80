"""The streams' windows on the engine's thread: they run while no frame waits, pay, and leave the stream steady."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from legato.engine import Engine
from legato.types import Frame, FrameAnswer, FrameJob
from tests.engine.recorder import Recorder
from tests.engine.test_engine import SOON, build, run, submit
from tests.pipeline.model import Model, small_model, stream

JUMP = 0.2  # of the whole way that a stream goes to its window, in one frame


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def frames(model: Model) -> list[Frame]:
    return stream(model, 6)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def engine(model: Model, recorder: Recorder) -> Iterator[Engine]:
    engine = build(model, observer=recorder, share=1.0)
    engine.start()
    yield engine
    engine.stop(0.0)


def steps_heard(recorder: Recorder) -> int:
    return sum(entry[1] for entry in recorder.heard if entry[0] == "window")


def rest(recorder: Recorder) -> None:
    """Until the window has nothing more to do."""
    end, before = time.monotonic() + SOON, -1
    while (now := steps_heard(recorder)) != before:
        assert time.monotonic() < end
        before = now
        time.sleep(0.3)


def play(engine: Engine, slot: int, frame: Frame, first: int, count: int) -> list[tuple[float, np.ndarray]]:
    """The same frame again and again, at 25 a second: PSNR and image of each answer."""
    shown = []
    for n in range(first, first + count):
        (given,) = run(engine, FrameJob(slot, n, frame, arrival=100.0 + n / 25))
        assert given.reconstruction is not None
        shown.append((given.psnr_db, given.reconstruction.astype(int)))
    return shown


def test_a_stream_gains_from_its_window_without_a_step_and_without_a_jump(
    engine: Engine, recorder: Recorder, frames: list[Frame]
) -> None:
    slot = engine.open_slot()
    ((before, first),) = play(engine, slot, frames[0], 1, 1)
    rest(recorder)
    assert steps_heard(recorder) > 10
    shown = play(engine, slot, frames[0], 2, 40)
    assert shown[-1][0] > before + 1.0
    images = [first] + [image for _, image in shown]
    changes = [np.abs(b - a).mean() for a, b in pairwise(images)]
    assert max(changes) < JUMP * sum(changes), changes


def test_a_closed_slot_leaves_nothing_to_do(engine: Engine, recorder: Recorder, frames: list[Frame]) -> None:
    slot = engine.open_slot()
    play(engine, slot, frames[0], 1, 1)
    engine.reset_slot(slot)
    engine.close_slot(slot)
    rest(recorder)
    other = engine.open_slot()
    ((first, _),) = play(engine, other, frames[0], 1, 1)
    fresh = engine.open_slot()
    ((expected, _),) = play(engine, fresh, frames[0], 1, 1)
    assert first == expected


def test_no_share_means_no_window(model: Model, frames: list[Frame]) -> None:
    recorder = Recorder()
    engine = build(model, observer=recorder, share=0.0)
    engine.start()
    try:
        play(engine, engine.open_slot(), frames[0], 1, 3)
        assert steps_heard(recorder) == 0
    finally:
        engine.stop(0.0)


@pytest.mark.parametrize("asked", [0, 1, 3])
def test_a_stream_that_asks_has_its_steps_while_frames_wait(model: Model, frames: list[Frame], asked: int) -> None:
    recorder = Recorder()
    engine = build(model, observer=recorder, share=1.0)
    first, other = engine.open_slot(), engine.open_slot()
    answers = submit(
        engine,
        FrameJob(first, 1, frames[0], window_steps=asked),
        *[FrameJob(other, seq, frames[1]) for seq in range(1, 9)],
    )
    engine.start()
    try:
        assert all(isinstance(answer, FrameAnswer) for answer in answers())
        rest(recorder)
    finally:
        engine.stop(0.0)
    last = max(at for at, name in enumerate(recorder.heard) if name[:2] == ("batch", "synthesize"))
    meanwhile = [entry for entry in recorder.heard[:last] if entry[0] == "window"]
    assert len(meanwhile) == asked
    assert len([entry for entry in recorder.heard if entry[0] == "window"]) > asked, "the rest when nobody waits"
