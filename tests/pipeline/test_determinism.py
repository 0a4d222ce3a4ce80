"""The same frames give the same latents: bit for bit alone, within rounding beside other sessions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from legato.pipeline import Pipeline
from legato.types import Frame, FrameAnswer, FrameJob, Outputs
from tests.pipeline.model import SMILE, Model, small_model, stream
from tests.tolerances import BESIDE_OTHERS_RMS, HALF_LATENTS_RMS, HALF_PSNR_DB

FRAMES = 4


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def scenes(model: Model) -> list[list[Frame]]:
    return [stream(model, FRAMES, seed) for seed in range(4)]


def session_0(
    model: Model, scenes: list[list[Frame]], slots: tuple[int, ...], dtype: torch.dtype, steps: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Latents [FRAMES, L, D] and PSNR [FRAMES] of a fresh pipeline that runs the scenes of `slots` side by side."""
    pipeline = Pipeline(model.generator, model.encoder, model.directions, slots=4, dtype=dtype)
    latents, db = [], []
    for t in range(FRAMES):
        jobs = [FrameJob(slot, t, scenes[slot][t], SMILE, Outputs(latents=True), steps) for slot in slots]
        first = pipeline.run(jobs)[0]
        assert isinstance(first, FrameAnswer)
        assert first.latents is not None
        latents.append(first.latents)
        db.append(first.psnr_db)
    return np.stack(latents), np.array(db)


def distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The worst frame's root mean square error, as a fraction of the codes' standard deviation."""
    return float(np.sqrt(np.square(found - expected).mean((1, 2)).max()) / expected.std())


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alone_twice_and_beside_three_others(
    model: Model, scenes: list[list[Frame]], dtype: torch.dtype, steps: int
) -> None:
    alone, _ = session_0(model, scenes, (0,), dtype, steps)
    np.testing.assert_array_equal(session_0(model, scenes, (0,), dtype, steps)[0], alone)
    beside, _ = session_0(model, scenes, (0, 1, 2, 3), dtype, steps)
    assert distance(beside, alone) <= BESIDE_OTHERS_RMS[str(dtype), steps > 0]


@pytest.mark.parametrize("steps", [0, 2])
def test_bfloat16_stays_close_to_float32(model: Model, scenes: list[list[Frame]], steps: int) -> None:
    exact, exact_db = session_0(model, scenes, (0,), torch.float32, steps)
    half, half_db = session_0(model, scenes, (0,), torch.bfloat16, steps)
    assert 0.0 < distance(half, exact) <= HALF_LATENTS_RMS
    assert np.abs(half_db - exact_db).max() <= HALF_PSNR_DB
