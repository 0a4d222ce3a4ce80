"""An encoder calibrated for a degradation: its fit written out, what it gains, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from legato.editing.population import sample_w
from legato.errors import InvalidInput
from legato.restoration import Colorize, Degradation, Denoise, Inpaint, SuperResolve, calibrate
from legato.restoration.calibration import RIDGES, fitted
from tests.pipeline.model import LAYERS, SIDE, Model, small_model
from tests.tolerances import LEFT_OUT

SAMPLES = 256


@pytest.fixture(scope="module")
def model() -> Model:
    model = small_model()
    model.generator.requires_grad_(False)
    model.encoder.requires_grad_(False)
    return model


def test_the_unexplained_part_is_that_of_samples_left_out() -> None:
    """Every sample left out in turn, and ridge regression with a free constant solved as a linear system."""
    draw = torch.Generator().manual_seed(0)
    seen = torch.randn(24, 8, generator=draw, dtype=torch.float64)
    lacking = seen @ torch.randn(8, 6, generator=draw, dtype=torch.float64)
    lacking = lacking + 3.0 + torch.randn(24, 6, generator=draw, dtype=torch.float64)
    found = fitted(lambda image: image, seen, lacking)
    eigenvalue = float((seen - seen.mean(0)).square().sum()) / 24
    tried = []
    for ridge in RIDGES:
        left = 0.0
        for k in range(24):
            kept = torch.arange(24) != k
            x = torch.cat([seen[kept], torch.ones(23, 1, dtype=torch.float64)], 1)
            penalty = torch.eye(9, dtype=torch.float64) * ridge * eigenvalue
            penalty[8, 8] = 0.0
            solution = torch.linalg.solve(x.T @ x + penalty, x.T @ lacking[kept])
            left += float((lacking[k] - torch.cat([seen[k], seen.new_ones(1)]) @ solution).square().sum())
        tried.append(left / float((lacking - lacking.mean(0)).square().sum()))
    torch.testing.assert_close(found.unexplained, min(tried), **LEFT_OUT)


def center_lost() -> torch.Tensor:
    mask = torch.ones(1, 1, SIDE, SIDE)
    mask[..., 20:44, 20:44] = 0
    return mask


# Random weights blur what they see: a small image already tells them nearly all, and noise does not reach the code.
@pytest.mark.parametrize(
    ("operator", "part"),
    [(Colorize(), 0.5), (SuperResolve(8), 0.95), (Inpaint(center_lost()), 0.5)],
    ids=["colorize", "super_resolve", "inpaint"],
)
def test_codes_of_degraded_images_come_closer_to_those_of_clean_ones(
    model: Model, operator: Degradation, part: float
) -> None:
    found = calibrate(model.generator, model.encoder, operator, samples=SAMPLES)
    with torch.no_grad():
        w = next(sample_w(model.generator, 16, seed=99))
        image = model.generator(w[:, None].expand(-1, LAYERS, -1)).clamp(-1, 1)
        degraded = operator.apply(image)
        clean, baseline = model.encoder(image), operator.baseline(degraded)
        before, after = ((x - clean).square().mean() for x in (model.encoder(baseline), found(baseline)))
    assert after < part * before
    assert found.unexplained < 1.0
    assert found(baseline).shape == clean.shape


def test_the_same_seed_gives_the_same_encoder_and_samples_are_told(model: Model) -> None:
    told: list[int] = []
    first = calibrate(model.generator, model.encoder, Denoise(noise=0.2), samples=40, progress=told.append)
    again, other = (calibrate(model.generator, model.encoder, Denoise(noise=0.2), samples=40, seed=s) for s in (0, 1))
    silent = calibrate(model.generator, model.encoder, Denoise(), samples=40)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.seen, silent.seen), "the population is as noisy as the image"
    assert not torch.equal(first.weight, other.weight)
    assert told == [32, 8]


def test_what_cannot_be_calibrated_is_told(model: Model) -> None:
    with pytest.raises(InvalidInput, match="one mask"):
        calibrate(model.generator, model.encoder, Inpaint(center_lost().repeat(2, 1, 1, 1)))
    with pytest.raises(InvalidInput, match="at least 2 samples; got 1"):
        calibrate(model.generator, model.encoder, Colorize(), samples=1)
