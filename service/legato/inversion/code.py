"""What is free in an inversion, and how it becomes latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from legato.models.curvature import Curvature

Synthesize = Callable[[Tensor], Tensor]  # latents [B, L, D] -> images [B, 3, R, R] in [-1, 1], differentiable


class Code(Protocol):
    """Free tensors and the map from them to W+ latents.

    A row is what is solved for itself: an image, or a clip whose images share something. The free tensor with the
    fewest rows in its first axis sets their number; the first axis of the others, and the images, are multiples of it,
    row by row.
    """

    @property
    def start(self) -> tuple[Tensor, ...]:
        """Where each free tensor begins."""
        ...

    def latents(self, *free: Tensor) -> Tensor:
        """The latents [B, L, D] of the free tensors, differentiable."""
        ...

    def draw(self, synthesize: Synthesize, free: tuple[Tensor, ...], step: int | None) -> tuple[Tensor, Tensor]:
        """(images [B, 3, R, R], their latents [B, L, D]), differentiable.

        `step` counts from 0 while the solve goes on, for what changes with it (drawn from `step` alone, so that a
        solve can be taken up again); None where the result is measured.
        """
        latents = self.latents(*free)
        return synthesize(latents), latents


@dataclass(frozen=True, slots=True, eq=False)
class FreeLatents(Code):
    """W+ itself is free (Abdal et al. 2019, Image2StyleGAN): w."""

    initial: Tensor  # [B, L, D]

    @property
    def start(self) -> tuple[Tensor, ...]:
        return (self.initial,)

    def latents(self, *free: Tensor) -> Tensor:
        (w,) = free
        return w


@dataclass(frozen=True, slots=True, eq=False)
class Correction(Code):
    """A correction to known codes is free, in the coordinates of the generator's curvature: w = base + moves(c)."""

    base: Tensor  # [B, L, D]
    initial: Tensor  # [B, L, D]: coordinates
    curvature: Curvature

    @property
    def start(self) -> tuple[Tensor, ...]:
        return (self.initial,)

    def latents(self, *free: Tensor) -> Tensor:
        (c,) = free
        return self.base + self.curvature.moves(c)
