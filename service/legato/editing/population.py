"""Codes of a generator's own population, which unsupervised methods learn from and measure lengths in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from legato.models.generator import Generator

_BATCH = 2000


@torch.no_grad()
def sample_w(generator: Generator, count: int, *, seed: int = 0, batch: int = _BATCH) -> Iterator[Tensor]:
    """w [up to `batch`, D] of `count` random z, without truncation. The same seed and batch give the same codes."""
    random = torch.Generator().manual_seed(seed)
    for start in range(0, count, batch):
        z = torch.randn(min(batch, count - start), generator.config.z_dim, generator=random)
        yield generator.mapping(z.to(generator.w_avg.device))


def deviations_along(generator: Generator, vectors: Tensor, *, count: int = 5000, seed: int = 1) -> Tensor:
    """Standard deviation [K] of the population's w along unit vectors [K, D]: how long one sigma is."""
    along = torch.cat([w @ vectors.T.to(w) for w in sample_w(generator, count, seed=seed)])
    return along.std(0)


def fix_signs(vectors: Tensor) -> Tensor:
    """Vectors [K, D] whose entry of largest magnitude is positive: an eigenvector's sign is arbitrary otherwise."""
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors)
