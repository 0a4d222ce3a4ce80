"""The same frames give the same latents: bit for bit alone, within rounding beside other sessions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from legato.pipeline import Pipeline
from legato.types import Frame, FrameAnswer, FrameJob, Outputs
from tests.pipeline.model import SMILE, Model, small_model, stream
from tests.tolerances import BESIDE_OTHERS_RMS

FRAMES = 4


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def scenes(model: Model) -> list[list[Frame]]:
    return [stream(model, FRAMES, seed) for seed in range(4)]


def latents_of_session_0(
    model: Model, scenes: list[list[Frame]], slots: tuple[int, ...], dtype: torch.dtype, steps: int
) -> NDArray[np.float32]:
    """[FRAMES, L, D] of a fresh pipeline that runs the scenes of `slots` side by side."""
    pipeline = Pipeline(model.generator, model.encoder, model.directions, slots=4, dtype=dtype)
    found = []
    for t in range(FRAMES):
        jobs = [FrameJob(slot, t, scenes[slot][t], SMILE, Outputs(latents=True), steps) for slot in slots]
        first = pipeline.run(jobs)[0]
        assert isinstance(first, FrameAnswer)
        assert first.latents is not None
        found.append(first.latents)
    return np.stack(found)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alone_twice_and_beside_three_others(
    model: Model, scenes: list[list[Frame]], dtype: torch.dtype, steps: int
) -> None:
    alone = latents_of_session_0(model, scenes, (0,), dtype, steps)
    np.testing.assert_array_equal(latents_of_session_0(model, scenes, (0,), dtype, steps), alone)
    beside = latents_of_session_0(model, scenes, (0, 1, 2, 3), dtype, steps)
    error = np.sqrt(np.square(beside - alone).mean((1, 2)).max())
    assert error <= BESIDE_OTHERS_RMS[str(dtype), steps > 0] * alone.std()
