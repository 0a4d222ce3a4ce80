"""Frechet distance against its closed forms."""

from __future__ import annotations

import pytest
import torch

from legato.evaluation.frechet import feature_distance, frechet_distance
from tests.tolerances import CORRELATED, FRECHET


def test_same_set_is_at_distance_zero() -> None:
    a = torch.randn(200, 8)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=FRECHET)


def test_shift_adds_its_square() -> None:
    a = torch.randn(300, 5)
    shift = torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0])
    assert frechet_distance(a, a + shift) == pytest.approx(25.0, abs=FRECHET)


def test_scaling_of_one_axis_is_the_squared_difference_of_deviations() -> None:
    a = torch.randn(500, 3, dtype=torch.float64)
    b = a * torch.tensor([1.0, 2.0, 1.0])
    deviation = a[:, 1].std()
    moved = float((a.mean(0) - b.mean(0)).square().sum())
    assert frechet_distance(a, b) == pytest.approx(float(deviation**2) + moved, rel=CORRELATED)


def test_order_of_samples_and_of_sets_does_not_matter() -> None:
    a, b = torch.randn(100, 6), 2 * torch.randn(80, 6) + 1
    forward = frechet_distance(a, b)
    assert forward > 1
    assert frechet_distance(b, a.flip(0)) == pytest.approx(forward, rel=FRECHET)


@pytest.mark.parametrize("shapes", [((1, 4), (5, 4)), ((5, 4), (5, 3)), ((5,), (5,))])
def test_sets_that_cannot_be_compared(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="two sets"):
        frechet_distance(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_distance_of_images_is_that_of_their_features() -> None:
    a, b = torch.rand(40, 3, 8, 8) * 2 - 1, torch.rand(33, 3, 8, 8) * 3 - 1  # some of b is too bright to be shown

    def means(image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3))

    expected = frechet_distance(means(a), means(b.clamp(-1, 1)))
    assert feature_distance(means, a, b) == pytest.approx(expected, abs=FRECHET)
