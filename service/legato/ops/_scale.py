"""What keeps products with styles of any size inside the range of float16."""

from __future__ import annotations

import torch
from torch import Tensor


def power_of_two(styles: Tensor) -> Tensor:
    """[B, 1]: a power of two near the largest |style| of each sample, so that x * (styles / size) fits float16."""
    largest = styles.detach().abs().amax(1, keepdim=True).clamp(2.0**-120, 2.0**120)
    return torch.exp2(largest.log2().ceil()).nan_to_num(1.0)
