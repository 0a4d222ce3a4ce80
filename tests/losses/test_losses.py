"""Distances between images: hand-computed values, independence of the images of a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from legato.losses import l1, laplacian_pyramid_l1, masked_mse, mse, psnr
from tests.tolerances import LOSS_ROUNDING


def images(batch: int = 3, side: int = 32) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 3, side, side) * 2 - 1, torch.rand(batch, 3, side, side) * 2 - 1


def close(actual: Tensor, expected: Tensor | list[float]) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), **LOSS_ROUNDING)


def test_pixel_values() -> None:
    target = torch.zeros(2, 3, 4, 4)
    image = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), -0.1)])
    close(l1(image, target), [0.5, 0.1])
    close(mse(image, target), [0.25, 0.01])


def test_mask_leaves_pixels_out_and_divides_by_all() -> None:
    image, target = images(2)
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, :, :16] = 1.0
    expected = (image - target).square()[:, :, :16].mean((1, 2, 3)) / 2
    close(masked_mse(image, target, mask), [float(expected[0]), 0.0])


@pytest.mark.parametrize("loss", [l1, mse, laplacian_pyramid_l1, psnr])
def test_images_of_a_batch_are_independent(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    image, target = images()
    together = loss(image, target)
    assert together.shape == (3,)
    close(together, torch.cat([loss(image[i : i + 1], target[i : i + 1]) for i in range(3)]))


def bands(image: Tensor, levels: int) -> list[Tensor]:
    """The Laplacian pyramid, written down band by band."""
    found = []
    for _ in range(levels):
        smaller = F.avg_pool2d(image, 2)
        found.append(image - F.interpolate(smaller, scale_factor=2, mode="bilinear", align_corners=False))
        image = smaller
    return [*found, image]


@pytest.mark.parametrize(("side", "levels"), [(64, 4), (32, 3), (16, 2)])
def test_pyramid_compares_bands_down_to_4_pixels(side: int, levels: int) -> None:
    image, target = images(2, side)
    pairs = zip(bands(image, levels), bands(target, levels), strict=True)
    close(laplacian_pyramid_l1(image, target), sum((l1(a, b) for a, b in pairs), start=torch.zeros(2)))


def test_pyramid_counts_a_constant_once_and_a_checkerboard_in_its_band() -> None:
    _, target = images(1)
    close(laplacian_pyramid_l1(target + 0.25, target), [0.25])
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    board = ((rows + columns) % 2 * 2 - 1).float()
    close(laplacian_pyramid_l1(target + 0.25 * board, target), [0.25])


def test_gradient_is_each_images_own() -> None:
    image, target = images(2)
    image.requires_grad_()
    (grad,) = torch.autograd.grad(laplacian_pyramid_l1(image, target)[0], image)
    assert grad[0].abs().sum() > 0
    assert grad[1].abs().sum() == 0


def test_psnr_is_in_decibels_of_peak_2() -> None:
    target = torch.zeros(2, 3, 4, 4)
    close(psnr(target + torch.tensor([0.02, 0.2]).view(2, 1, 1, 1), target), [40.0, 20.0])


def test_psnr_clamps_as_when_shown_and_ends_at_100() -> None:
    white = torch.ones(1, 3, 4, 4)
    close(psnr(white, white), [100.0])
    close(psnr(white * 1.7, white), [100.0])
