"""Adaptive augmentation: what it does to images, that R1 goes through it, and what moves its probability."""

from __future__ import annotations

import torch

from legato.models.discriminator import Discriminator
from legato.train.adversarial import r1_penalty
from legato.train.augment import AdaptiveAugment, color, geometry, sample
from tests.tolerances import AUGMENTED_STATISTICS, EXACT, RESAMPLED
from tests.train.small import GENERATOR_16, pictures


def images(count: int, size: int = 16) -> torch.Tensor:
    return torch.from_numpy(pictures(count, size)).float() / 127.5 - 1


def test_nothing_happens_at_probability_0() -> None:
    x = images(4)
    torch.testing.assert_close(AdaptiveAugment()(x), x, **EXACT)
    torch.testing.assert_close(geometry(x, 0.0), x, **RESAMPLED)
    torch.testing.assert_close(color(x, 0.0), x, **RESAMPLED)


def test_color_moves_as_the_paper_says() -> None:
    """A gray image's brightness is (g + b) c, mirrored in half of them; hue and saturation leave gray gray."""
    torch.manual_seed(0)
    gray = torch.full((20_000, 3, 1, 1), 0.5)
    found = color(gray, 1.0)
    torch.testing.assert_close(found[:, 0], found[:, 1], **RESAMPLED)
    torch.testing.assert_close(found[:, 0], found[:, 2], **RESAMPLED)
    size = found[:, 0].abs().log2()
    mirrored = (found[:, 0] < 0).float().mean()
    assert abs(float(mirrored) - 0.5) < AUGMENTED_STATISTICS
    bright = (0.5 + 0.2 * torch.randn(20_000)).abs().log2()
    assert abs(float(size.mean() - bright.mean())) < AUGMENTED_STATISTICS
    assert abs(float(size.var() - bright.var() - 0.25)) < 4 * AUGMENTED_STATISTICS


def test_hue_turns_around_gray_and_saturation_scales_what_is_left() -> None:
    torch.manual_seed(1)
    x = torch.rand(64, 3, 4, 4)
    found = color(x, 1.0)
    luma, moved = x.mean(1, keepdim=True), found.mean(1, keepdim=True)
    before, after = (x - luma).norm(dim=1), (found - moved).norm(dim=1)
    ratio = after / before  # one number for each image: contrast times saturation
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio), **RESAMPLED)


def test_geometry_moves_images_whole_and_each_for_itself() -> None:
    torch.manual_seed(2)
    x = images(1, 32).expand(16, -1, -1, -1)
    found = geometry(x, 1.0)
    assert found.shape == x.shape
    assert len({round(float(image.sum()), 3) for image in found}) > 8
    flat = torch.full((4, 3, 16, 16), 0.3)
    torch.testing.assert_close(geometry(flat, 1.0), flat, **RESAMPLED)  # borders are reflected: nothing black comes in


def test_sampling_at_whole_pixels_is_exact_and_its_derivatives_are_right() -> None:
    x = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 4, 4, 2, dtype=torch.float64) * 1.6 - 0.8
    torch.autograd.gradcheck(lambda v: sample(v, grid), x)
    torch.autograd.gradgradcheck(lambda v: sample(v, grid), x)
    eye = torch.eye(3, dtype=torch.float64)[None, :2].expand(2, -1, -1)
    shifted = eye.clone()
    shifted[:, 0, 2] = 2 / 5  # one pixel
    found = sample(x, torch.nn.functional.affine_grid(shifted, [2, 1, 5, 5], align_corners=False))
    torch.testing.assert_close(found[..., :4], x[..., 1:], **RESAMPLED)


def test_r1_goes_through_the_augmentation() -> None:
    """With the image made half as bright the gradient is half as long; and it reaches the discriminator's weights."""
    judge = Discriminator(GENERATOR_16)
    x = images(4)
    torch.manual_seed(3)
    plain = r1_penalty(judge, 0.5 * x)
    halved = r1_penalty(judge, x, lambda image: 0.5 * image)
    torch.testing.assert_close(halved, 0.25 * plain, **RESAMPLED)
    augment = AdaptiveAugment()
    augment.p.fill_(1.0)
    r1_penalty(judge, x, augment).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (judge.b4.conv.weight, judge.b4.out.weight))


def test_probability_follows_the_sign_of_the_scores() -> None:
    augment = AdaptiveAugment(target=0.6, rise_images=100)
    augment.observe(torch.ones(10, 1))
    augment.observe(torch.ones(10, 1))
    assert float(augment.adapt()) == 1.0  # r_t is above the target: 20 of 100 images further
    torch.testing.assert_close(augment.p, torch.tensor(0.2), **EXACT)
    augment.observe(torch.tensor([[2.0], [1.0], [-1.0], [0.5]]))  # r_t 0.5: below
    assert float(augment.adapt()) == 0.5
    torch.testing.assert_close(augment.p, torch.tensor(0.16), **RESAMPLED)
    for _ in range(9):
        augment.observe(-torch.ones(10, 1))
        augment.adapt()
    assert float(augment.p) == 0.0
    fixed = AdaptiveAugment(target=0.0)
    fixed.observe(torch.ones(10, 1))
    fixed.adapt()
    assert float(fixed.p) == 0.0
