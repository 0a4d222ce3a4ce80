"""Degradation operators: what is seen, what is kept, and what has to be beaten."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from legato.errors import InvalidInput
from legato.restoration import Colorize, Degradation, Denoise, Inpaint, SuperResolve, lost_pixels, noise_level
from legato.restoration.colorize import luma
from tests.tolerances import COLOR_LEVELS, EXACT, LOSS_ROUNDING, LOST_PART, NOISE_LEVEL

SIDE = 32


def pictures() -> Tensor:
    return F.interpolate(torch.rand(2, 3, 6, 6) * 2 - 1, size=SIDE, mode="bilinear")


def half() -> Tensor:
    mask = torch.ones(1, 1, SIDE, SIDE)
    mask[..., SIDE // 2 :] = 0
    return mask


OPERATORS: list[Degradation] = [
    Colorize(),
    SuperResolve(4),
    SuperResolve(2, antialias=True),
    SuperResolve(4, consistent=False),
    Inpaint(half()),
    Inpaint(half(), composite=False),
    Denoise(),
    Denoise(lost_pixels(SIDE)),
    Denoise(noise=0.1),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_the_truth_is_a_solution_and_stays_one(operator: Degradation) -> None:
    truth = pictures()
    seen = operator.apply(truth)
    torch.testing.assert_close(operator.finish(truth, seen), truth, **LOSS_ROUNDING)
    assert operator.baseline(seen).shape == truth.shape


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_what_is_seen_has_a_gradient_to_the_image(operator: Degradation) -> None:
    image = pictures().requires_grad_()
    (gradient,) = torch.autograd.grad(operator.apply(image).square().sum(), image)
    assert gradient.abs().sum() > 0


def test_luma_is_that_of_the_standard_and_is_kept() -> None:
    truth, made = pictures(), pictures()
    pixels = ((truth[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    y = (luma(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1.0)[0, 0] + 1) * 127.5
    np.testing.assert_allclose(y.numpy(), cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), **COLOR_LEVELS)
    seen = Colorize().apply(truth * 0.3)
    assert torch.equal(seen[:, 0], seen[:, 2])
    done = Colorize().finish(made * 0.3, seen)
    torch.testing.assert_close(luma(done), luma(truth * 0.3), **LOSS_ROUNDING)
    for channel in (0, 2):  # Cr and Cb are differences to the luma
        color, wanted = ((x[:, channel] - luma(x)[:, 0]) for x in (done, made * 0.3))
        torch.testing.assert_close(color, wanted, **LOSS_ROUNDING)


def test_a_small_image_is_bilinear_without_a_filter_unless_it_is_asked_for() -> None:
    truth = torch.randn(1, 3, SIDE, SIDE)
    small = SuperResolve(4).apply(truth)
    centers = F.avg_pool2d(truth[:, :, 1:-1, 1:-1], 2, stride=4)  # of 4 pixels the middle 2 are read
    torch.testing.assert_close(small, centers, **LOSS_ROUNDING)
    assert SuperResolve(4, antialias=True).apply(truth).std() < small.std()
    with pytest.raises(InvalidInput, match=r"one of \[2, 4, 8, 16\]; got 3"):
        SuperResolve(3)


def test_what_a_small_image_says_is_put_into_what_was_made() -> None:
    truth, made = pictures(), pictures() * 0.5
    seen = SuperResolve(4).apply(truth)
    done, raw = SuperResolve(4).finish(made, seen), SuperResolve(4, consistent=False).finish(made, seen)
    torch.testing.assert_close(raw, made, **EXACT)
    before, after = ((SuperResolve(4).apply(x) - seen).abs().mean((1, 2, 3)) for x in (made, done))
    assert (after < 0.5 * before).all()


def test_known_pixels_are_kept_if_wanted_and_holes_are_filled_with_their_mean() -> None:
    truth, made, mask = pictures(), pictures(), half()
    seen = Inpaint(mask).apply(truth)
    assert not seen[..., SIDE // 2 :].any()
    torch.testing.assert_close(Inpaint(mask).finish(made, seen), torch.where(mask.bool(), truth, made), **EXACT)
    torch.testing.assert_close(Inpaint(mask, composite=False).finish(made, seen), made, **EXACT)
    filled = Inpaint(mask).baseline(seen)
    wanted = truth[..., : SIDE // 2].mean((2, 3))
    torch.testing.assert_close(filled[..., -1, -1], wanted, **LOSS_ROUNDING)
    torch.testing.assert_close(filled[..., : SIDE // 2], truth[..., : SIDE // 2], **EXACT)


def test_pixels_that_were_not_lost_are_kept_if_wanted() -> None:
    truth, made, mask = pictures(), pictures(), lost_pixels(SIDE)
    seen = Denoise(mask).apply(truth)
    torch.testing.assert_close(Denoise(mask).finish(made, seen), torch.where(mask.bool(), truth, made), **EXACT)
    torch.testing.assert_close(Denoise(mask, composite=False).finish(made, seen), made, **EXACT)
    torch.testing.assert_close(Denoise().finish(made, truth), made, **EXACT)


@pytest.mark.parametrize("level", [0.05, 0.3])
def test_the_level_of_noise_is_found(level: float) -> None:
    truth = pictures().repeat_interleave(4, 2).repeat_interleave(4, 3) * 0.5
    smooth = F.avg_pool2d(F.pad(truth, (4, 4, 4, 4), mode="replicate"), 9, stride=1)
    found = noise_level(smooth + level * torch.randn_like(smooth))
    torch.testing.assert_close(found, torch.full((2,), level), **NOISE_LEVEL)


def test_pixels_are_lost_at_random_and_always_the_same() -> None:
    mask = lost_pixels(128)
    assert float(mask.mean()) == pytest.approx(0.2, abs=LOST_PART)
    assert torch.equal(mask, lost_pixels(128))
    assert not torch.equal(mask, lost_pixels(128, seed=1))


def test_noise_is_averaged_by_the_baseline() -> None:
    truth = pictures()
    noisy = truth + 0.3 * torch.randn_like(truth)
    assert (Denoise().baseline(noisy) - truth).square().mean() < 0.5 * (noisy - truth).square().mean()


def test_masks_that_are_none_are_refused() -> None:
    for mask in (torch.full((1, 1, 4, 4), 0.5), torch.ones(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)):
        with pytest.raises(InvalidInput, match="mask"):
            Inpaint(mask)
