"""What is free in an inversion, and how it becomes latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Code(Protocol):
    """Free tensors and the map from them to W+ latents."""

    @property
    def start(self) -> tuple[Tensor, ...]:
        """Where each free tensor begins; the first axis of each is that of its rows (images, or 1 if shared)."""
        ...

    def latents(self, *free: Tensor) -> Tensor:
        """The latents [B, L, D] of the free tensors, differentiable."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FreeLatents:
    """W+ itself is free (Abdal et al. 2019, Image2StyleGAN): w."""

    initial: Tensor  # [B, L, D]

    @property
    def start(self) -> tuple[Tensor, ...]:
        return (self.initial,)

    def latents(self, *free: Tensor) -> Tensor:
        (w,) = free
        return w


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """A correction to known codes is free: w = base + c."""

    base: Tensor  # [B, L, D]
    initial: Tensor  # [B, L, D]

    @property
    def start(self) -> tuple[Tensor, ...]:
        return (self.initial,)

    def latents(self, *free: Tensor) -> Tensor:
        (c,) = free
        return self.base + c
