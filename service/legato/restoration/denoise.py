"""Denoising: pixels are lost at random, or all are noisy (Gu et al. 2020, section 4.2, "random crop")."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from legato.restoration.degradation import check_mask, mean_fill


@dataclass(frozen=True, slots=True, eq=False)
class Denoise:
    """With a mask, its pixels are known and the others lost (the paper: 80 % at random), compared as in inpainting and,
    unless `composite` is off, kept in the result.

    Without one, every pixel is seen with noise on it, and what the generator cannot make is taken for noise: few codes
    that meet early make a stronger prior than many that meet late. What was made is then the result.
    `noise` is its standard deviation where that is known or estimated; a calibration degrades with as much.
    """

    mask: Tensor | None = None  # [1 or B, 1, R, R]: 1 where pixels are known
    noise: float = 0.0  # of values in [-1, 1]
    composite: bool = True
    name: str = "denoise"

    def __post_init__(self) -> None:
        if self.mask is not None:
            object.__setattr__(self, "mask", check_mask(self.mask))

    def apply(self, image: Tensor) -> Tensor:
        return image if self.mask is None else image * self.mask

    def finish(self, made: Tensor, degraded: Tensor) -> Tensor:
        made = made.clamp(-1.0, 1.0)
        return made if self.mask is None or not self.composite else torch.where(self.mask.bool(), degraded, made)

    def baseline(self, degraded: Tensor) -> Tensor:
        """The mean of the known pixels in the lost ones; without a mask, a mean over 3 x 3 pixels."""
        if self.mask is not None:
            return mean_fill(degraded, self.mask)
        return F.avg_pool2d(F.pad(degraded, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def noise_level(image: Tensor) -> Tensor:
    """Standard deviation [B] of the noise on images [B, 3, R, R] (Immerkaer 1996, Fast noise variance estimation).

    From a filter that straight edges and even shades pass through as 0; texture counts as noise.
    """
    sides = image.new_tensor([[1.0, -2.0, 1.0]])
    kernel = (sides.T @ sides).expand(3, 1, 3, 3)
    response = F.conv2d(image, kernel, groups=3).abs().mean((1, 2, 3))
    return response * math.sqrt(math.pi / 2) / 6.0


def lost_pixels(resolution: int, lost: float = 0.8, seed: int = 0) -> Tensor:
    """A mask [1, 1, R, R] that loses a fraction of the pixels at random."""
    draw = torch.Generator().manual_seed(seed)
    return (torch.rand(1, 1, resolution, resolution, generator=draw) >= lost).float()
