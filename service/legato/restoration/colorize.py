"""Colorization: the gray image is known (Gu et al. 2020, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RED, GREEN, BLUE = 0.299, 0.587, 0.114  # ITU-R BT.601


def luma(image: Tensor) -> Tensor:
    """Y of an image [B, 3, R, R] in [-1, 1]: [B, 1, R, R] in [-1, 1] (ITU-R BT.601)."""
    red, green, blue = image.split(1, 1)
    y: Tensor = RED * red + GREEN * green + BLUE * blue
    return y


@dataclass(frozen=True, slots=True)
class Colorize:
    """Only the luma is seen, in all three channels. The known luma is kept, and Cb and Cr come from what was made."""

    name: str = "colorize"

    def apply(self, image: Tensor) -> Tensor:
        return luma(image).expand(-1, 3, -1, -1)

    def finish(self, made: Tensor, degraded: Tensor) -> Tensor:
        """YCbCr with the Y of `degraded`; colors out of range are clamped, as they are when shown."""
        y = luma(degraded)
        made = made.clamp(-1.0, 1.0)
        red, blue = (made[:, :1] - luma(made)) + y, (made[:, 2:] - luma(made)) + y
        green = (y - RED * red - BLUE * blue) / GREEN
        return torch.cat([red, green, blue], 1).clamp(-1.0, 1.0)

    def baseline(self, degraded: Tensor) -> Tensor:
        """Gray."""
        return self.apply(degraded)
