"""Frechet distance between two sets of feature vectors (Dowson and Landau 1982; as FID, Heusel et al. 2017, eq. 6)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of a [N, F] and b [M, F], in float64.

    The trace of the root is that of the symmetric product: the sum of the roots of the eigenvalues of
    C_a^(1/2) C_b C_a^(1/2). Raises ValueError unless both sets hold at least two vectors of one size.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"two sets [N, F] with N >= 2 and one F are wanted; got {list(a.shape)} and {list(b.shape)}")
    a, b = a.double(), b.double()
    root = _root(torch.cov(a.T))
    product = torch.linalg.eigvalsh(root @ torch.cov(b.T) @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * product
    return float(distance.clamp(min=0))


@torch.no_grad()
def feature_distance(features: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, *, batch: int = 16) -> float:
    """Frechet distance of two sets of images [N, 3, R, R] and [M, 3, R, R] in [-1, 1] in a network's features [., F].

    FID (Heusel et al. 2017) is this with Inception's; name the network beside every figure. Zhu et al. 2020 compare
    the reconstructions of 500 images with those very images. Images are clamped as when they are shown.
    """
    found = [torch.cat([features(chunk.clamp(-1, 1)) for chunk in images.split(batch)]) for images in (a, b)]
    return frechet_distance(found[0], found[1])


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root
