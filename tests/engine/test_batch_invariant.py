"""`--batch-invariant`: what a session gets does not change by a bit with who is served beside it."""

from __future__ import annotations

import queue
from pathlib import Path

import numpy as np
import pytest

from legato.commands.serve import build_engine
from legato.config import EngineConfig, load
from legato.engine import Engine
from legato.errors import LegatoError
from legato.types import Edit, Frame, FrameAnswer, FrameJob, Outputs
from tests.rpc.model import save_tiny_model
from tests.rpc.wire import RESOLUTION

SOON = 60.0  # seconds: far more than anything here takes
FRAMES, SESSIONS = 3, 8
EDITS = (Edit("smile", 1.5),)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def scenes() -> list[list[Frame]]:
    """A moving gradient for each session, with noise of its own."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:RESOLUTION, :RESOLUTION]
    found = []
    for number in range(SESSIONS):
        noise = draw.integers(0, 40, (RESOLUTION, RESOLUTION, 3))
        still = np.stack([2 * x, 2 * y, np.full_like(x, 20 * number)], 2) + noise
        found.append([Frame(np.roll(still, 2 * t, axis=1).clip(0, 255).astype(np.uint8)) for t in range(FRAMES)])
    return found


def first_session(engine: Engine, scenes: list[list[Frame]], count: int) -> list[FrameAnswer]:
    """The answers of the first of `count` sessions whose frames come at the same time, and take 0 to 3 steps."""
    slots = [engine.open_slot() for _ in range(count)]
    kept = []
    for t in range(FRAMES):
        answered: queue.SimpleQueue[FrameAnswer | LegatoError] = queue.SimpleQueue()
        rest: queue.SimpleQueue[FrameAnswer | LegatoError] = queue.SimpleQueue()
        for number, slot in reversed(list(enumerate(slots))):
            steps = 2 if number == 0 else number % 4
            job = FrameJob(slot, t + 1, scenes[number][t], EDITS, Outputs(latents=True), steps)
            engine.submit(job, (rest if number else answered).put)
        answer = answered.get(timeout=SOON)
        assert isinstance(answer, FrameAnswer), answer
        kept.append(answer)
        for _ in slots[1:]:
            assert isinstance(rest.get(timeout=SOON), FrameAnswer)
    for slot in slots:
        engine.close_slot(slot)
    return kept


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_alone_and_among_seven_others_bit_for_bit(model: Path, scenes: list[list[Frame]], precision: str) -> None:
    engine = build_engine(
        EngineConfig(
            model=str(model), max_sessions=SESSIONS, precision=precision, batch_invariant=True, max_wait_seconds=0.05
        )
    )
    assert engine.options.window.share == 0.0, "how far a window comes depends on the others"
    engine.start()
    try:
        alone, among = first_session(engine, scenes, 1), first_session(engine, scenes, SESSIONS)
    finally:
        engine.stop(0.0)
    for one, other in zip(alone, among, strict=True):
        assert (one.steps, one.psnr_db) == (other.steps, other.psnr_db) == (2, one.psnr_db)
        np.testing.assert_array_equal(one.latents, other.latents)
        np.testing.assert_array_equal(one.reconstruction, other.reconstruction)
        np.testing.assert_array_equal(one.edited, other.edited)


def test_the_mode_has_one_bucket_however_it_is_asked_for(tmp_path: Path) -> None:
    assert EngineConfig().buckets == EngineConfig().batch_buckets
    file = tmp_path / "legato.toml"
    file.write_text("[engine]\nbatch_invariant = true\n", encoding="utf-8")
    asked = (
        load(file, {}),
        load(environ={"LEGATO_ENGINE__BATCH_INVARIANT": "on"}),
        load(environ={}, flags={"engine.batch_invariant": "true", "engine.batch_buckets": "1,2,4"}),
    )
    assert [config.engine.buckets for config in asked] == [(1,)] * 3
    refused = load(file, {}, {"engine.batch_invariant": "no"})
    assert refused.engine.buckets == EngineConfig().batch_buckets
