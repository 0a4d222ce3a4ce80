"""What happened to an image, and what is done with the image that a generator offers for it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from legato.errors import InvalidInput


class Degradation(Protocol):
    """A differentiable operator on images in [-1, 1], and the way back to what is known for certain."""

    @property
    def name(self) -> str: ...

    def apply(self, image: Tensor) -> Tensor:
        """[B, 3, R, R] -> what is seen of it: [B, 3, r, r]. Applied to both sides of the comparison."""
        ...

    def finish(self, made: Tensor, degraded: Tensor) -> Tensor:
        """The restored image [B, 3, R, R] of what the generator made [B, 3, R, R] for `degraded` [B, 3, r, r]."""
        ...

    def baseline(self, degraded: Tensor) -> Tensor:
        """[B, 3, R, R] without any model: what a method has to beat, and what an encoder may look at."""
        ...


def check_mask(mask: Tensor) -> Tensor:
    """A mask of 0 and 1 as [1 or B, 1, R, R] float. Raises InvalidInput."""
    if mask.dim() != 4 or mask.shape[1] != 1 or not bool(((mask == 0) | (mask == 1)).all()):
        raise InvalidInput(f"a mask is [1 or B, 1, R, R] of 0 and 1, 1 where pixels are known; got {list(mask.shape)}")
    if not bool(mask.flatten(1).any(1).all()):
        raise InvalidInput("a mask leaves some pixels known; got one that leaves none")
    return mask.float()


def mean_fill(image: Tensor, mask: Tensor) -> Tensor:
    """`image` [B, 3, R, R] with the mean of its known pixels where `mask` [1 or B, 1, R, R] is 0."""
    mask = mask.expand(len(image), -1, -1, -1)
    known = mask.sum((2, 3), keepdim=True)
    mean = (image * mask).sum((2, 3), keepdim=True) / known
    return torch.where(mask.bool(), image, mean)
