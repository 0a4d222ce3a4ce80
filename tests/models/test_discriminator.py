"""The discriminator: scores, minibatch deviation, and a second derivative for R1."""

from __future__ import annotations

import pytest
import torch

from legato.models import Discriminator, GeneratorConfig
from legato.models.discriminator import minibatch_deviation
from tests.tolerances import BFLOAT16_IMAGE, DOUBLE_GRADIENT, GENERATOR_ROUNDING


def small(resolution: int = 32, channel_max: int = 16) -> Discriminator:
    return Discriminator(GeneratorConfig(resolution, channel_base=128, channel_max=channel_max))


@pytest.mark.parametrize("resolution", [8, 32, 128])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_one_score_an_image(resolution: int, batch: int) -> None:
    scores = small(resolution)(torch.randn(batch, 3, resolution, resolution))
    assert scores.shape == (batch, 1)
    assert bool(scores.isfinite().all())


@pytest.mark.parametrize(("batch", "size"), [(1, 1), (3, 3), (4, 4), (6, 3), (8, 4)])
def test_minibatch_deviation_by_hand(batch: int, size: int) -> None:
    x = torch.randn(batch, 5, 4, 4)
    actual = minibatch_deviation(x)
    groups = batch // size
    for b in range(batch):
        members = x[b % groups :: groups]
        assert len(members) == size
        expected = members.var(dim=0, correction=0).add(1e-8).sqrt().mean()
        torch.testing.assert_close(actual[b], expected.expand(1, 4, 4), **GENERATOR_ROUNDING)


def test_r1_reaches_every_weight_that_moves_the_slope() -> None:
    discriminator = small()
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    scores = discriminator(images, full_precision=True)
    (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    slope.square().sum(dim=(1, 2, 3)).mean().backward()
    # A bias behind the last activation moves the score and not its slope.
    still = {n for n, p in discriminator.named_parameters() if p.grad is None or not p.grad.any()}
    assert {n for n in still if not n.endswith("bias")} == set()


def test_second_derivative_in_double_precision() -> None:
    discriminator = small(8, channel_max=4).double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(discriminator, (images,), **DOUBLE_GRADIENT)
    assert torch.autograd.gradgradcheck(lambda x: discriminator(x).square(), (images,), **DOUBLE_GRADIENT)


def test_bfloat16_and_full_precision() -> None:
    discriminator = small().requires_grad_(False)
    images = torch.randn(8, 3, 32, 32)
    exact = discriminator(images)
    discriminator.autocast_dtype = torch.bfloat16
    rough = discriminator(images)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).square().mean().sqrt() < BFLOAT16_IMAGE * exact.square().mean().sqrt()
    assert torch.equal(discriminator(images, full_precision=True), exact)


def test_wrong_size_is_told() -> None:
    with pytest.raises(ValueError, match=r"image is \[B, 3, 32, 32\]; got \[1, 3, 16, 16\]"):
        small()(torch.randn(1, 3, 16, 16))
