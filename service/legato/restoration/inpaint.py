"""Inpainting: the pixels of a mask are known (Gu et al. 2020, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from legato.restoration.degradation import check_mask, mean_fill


@dataclass(frozen=True, slots=True, eq=False)
class Inpaint:
    """Known pixels are compared, all others are mid-gray on both sides.

    `composite` keeps the known pixels in the result. The released code saves what was made as it is, known pixels
    included: composite=False. (Its masks are 1 in the holes; ours are 1 where pixels are known.)
    """

    mask: Tensor  # [1 or B, 1, R, R]: 1 where pixels are known
    composite: bool = True
    name: str = "inpaint"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", check_mask(self.mask))

    def apply(self, image: Tensor) -> Tensor:
        return image * self.mask

    def finish(self, made: Tensor, degraded: Tensor) -> Tensor:
        made = made.clamp(-1.0, 1.0)
        return torch.where(self.mask.bool(), degraded, made) if self.composite else made

    def baseline(self, degraded: Tensor) -> Tensor:
        """The mean of the known pixels in the holes."""
        return mean_fill(degraded, self.mask)
