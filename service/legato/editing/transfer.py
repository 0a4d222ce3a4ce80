"""Semantics of one clip on another subject, and a session's own directions, both without labels.

The steps n_k between the codes of consecutive images of one person are what moved: expression and pose. Added to
another person's code they move that one alike (the application "unsupervised semantic transfer" of Xu et al. 2021; its
exact protocol is not published). What a session's steps have in common is a basis of directions of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.editing.directions import Directions, layer_mask, unmeasured
from legato.models.generator import Generator

_NOTHING = 1e-6  # of the largest energy: less is rounding


def steps_of(latents: Tensor, *, shared: bool = True) -> Tensor:
    """Steps between the codes [T, L, D] of a clip: [T - 1, D], the mean over layers, or [T - 1, L, D].

    Shared steps are what the joint inversion finds (w_n = w_1 + sum of n_k, Xu et al. 2021); of codes that were found
    frame by frame, the mean over layers is the least-squares estimate of them.
    """
    if latents.dim() != 3 or len(latents) < 2:
        raise ValueError(f"a clip has codes [T, L, D] of at least 2 frames; got {list(latents.shape)}")
    steps = latents.diff(dim=0)
    return steps.mean(1) if shared else steps


def transfer(
    code: Tensor,  # [L, D]
    steps: Tensor,  # [K, D] or [K, L, D]
    *,
    strength: float = 1.0,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Codes [K + 1, L, D] of another subject who moves as a clip did: w + strength * (n_1 + ... + n_k).

    layers: those of W+ that move; None is all.
    """
    if code.dim() != 2 or steps.dim() not in (2, 3) or steps.shape[-1] != code.shape[1]:
        raise ValueError(f"code is [L, D], steps [K, D] or [K, L, D]; got {list(code.shape)} and {list(steps.shape)}")
    moved = steps[:, None] if steps.dim() == 2 else steps
    path = torch.cat([moved.new_zeros(1, *moved.shape[1:]), moved.cumsum(0)])
    return code + strength * layer_mask(len(code), layers).to(code) * path.to(code)


@dataclass(slots=True, eq=False)
class RunningBasis:
    """The strongest directions of each of N streams' steps so far, as tensors of fixed shape: rows of engine slots.

    An online principal component analysis about 0 (a step's mean is where the clip ends, not a property of it): the
    rank-one update of Brand 2006, Fast Low-Rank Modifications of the Thin SVD, with old steps fading.
    """

    vectors: Tensor  # [N, K, D], orthonormal, strongest first; 0 where fewer were seen
    energy: Tensor  # [N, K]: faded sum of squares of the steps along each
    weight: Tensor  # [N]: faded number of steps

    @staticmethod
    def zeros(rows: int, *, components: int, dim: int, device: torch.device | str = "cpu") -> RunningBasis:
        """Streams that have not moved."""
        return RunningBasis(
            torch.zeros(rows, components, dim, device=device),
            torch.zeros(rows, components, device=device),
            torch.zeros(rows, device=device),
        )

    @property
    def deviations(self) -> Tensor:
        """[N, K]: root mean square of the steps along each direction; 0 where there is none."""
        return (self.energy / self.weight.clamp(min=1e-12)[:, None]).sqrt()

    def update(self, steps: Tensor, moved: Tensor | None = None, *, decay: float = 0.98) -> RunningBasis:
        """The basis after one more step [N, D] of every row, or of the rows where `moved` [N] bool is set.

        decay: how much of the past is left after a step; .98 remembers about 50. A row's result does not depend on the
        others. Uses `torch.linalg.eigh` of [N, K + 1, K + 1], so it stands outside captured CUDA graphs.
        """
        past = (decay * self.energy).sqrt()[..., None] * self.vectors
        rows = torch.cat([past, steps.to(past)[:, None]], 1)  # [N, K + 1, D]; its Gram matrix is small
        energy, mix = torch.linalg.eigh(rows @ rows.mT)
        energy = energy.flip(1)[:, :-1].clamp(min=0)
        alive = energy > _NOTHING * energy[:, :1]
        vectors = mix.flip(2)[..., :-1].mT @ rows / torch.where(alive, energy, 1.0).sqrt()[..., None] * alive[..., None]
        against = (vectors * self.vectors).sum(2, keepdim=True) < 0  # a direction keeps its sign while it is followed
        vectors = torch.where(against, -vectors, vectors)
        found = RunningBasis(vectors, energy * alive, decay * self.weight + 1.0)
        return found if moved is None else self._where(moved, found)

    def directions(self, row: int, generator: Generator, *, prefix: str = "session") -> Directions:
        """What one stream did, named PREFIX_0, ...; strength 1 is the root mean square of its steps along it."""
        deviations = self.deviations[row]
        kept = [k for k in range(len(deviations)) if deviations[k] > 0]
        described = {
            f"{prefix}_{k}": f"direction {k} of {float(self.weight[row]):.0f} steps, {float(deviations[k]):.3g} a step"
            for k in kept
        }
        moved = {f"{prefix}_{k}": deviations[k] * self.vectors[row, k] for k in kept}
        return unmeasured(moved, described, generator)

    def _where(self, moved: Tensor, found: RunningBasis) -> RunningBasis:
        return RunningBasis(
            torch.where(moved[:, None, None], found.vectors, self.vectors),
            torch.where(moved[:, None], found.energy, self.energy),
            torch.where(moved, found.weight, self.weight),
        )
