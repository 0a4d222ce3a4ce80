"""Denoising: pixels are lost at random, or all are noisy (Gu et al. 2020, section 4.2, "random crop")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from legato.restoration.degradation import check_mask, mean_fill


@dataclass(frozen=True, slots=True, eq=False)
class Denoise:
    """With a mask, its pixels are known and the others lost (the paper: 80 % at random), compared as in inpainting.

    Without one, every pixel is seen with noise on it, and what the generator cannot make is taken for noise: few codes
    that meet early make a stronger prior than many that meet late. What was made is the result; nothing is kept.
    """

    mask: Tensor | None = None  # [1 or B, 1, R, R]: 1 where pixels are known
    name: str = "denoise"

    def __post_init__(self) -> None:
        if self.mask is not None:
            object.__setattr__(self, "mask", check_mask(self.mask))

    def apply(self, image: Tensor) -> Tensor:
        return image if self.mask is None else image * self.mask

    def finish(self, made: Tensor, degraded: Tensor) -> Tensor:
        return made.clamp(-1.0, 1.0)

    def baseline(self, degraded: Tensor) -> Tensor:
        """The mean of the known pixels in the lost ones; without a mask, a mean over 3 x 3 pixels."""
        if self.mask is not None:
            return mean_fill(degraded, self.mask)
        return F.avg_pool2d(F.pad(degraded, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def lost_pixels(resolution: int, lost: float = 0.8, seed: int = 0) -> Tensor:
    """A mask [1, 1, R, R] that loses a fraction of the pixels at random."""
    draw = torch.Generator().manual_seed(seed)
    return (torch.rand(1, 1, resolution, resolution, generator=draw) >= lost).float()
