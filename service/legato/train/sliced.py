"""Sliced Wasserstein distance of image patches (Karras et al. 2018, "Progressive growing of GANs", section 5).

Needs no network, so that it says the same of any kind of images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.losses import laplacian_bands

PATCH, PATCHES, PROJECTIONS = 7, 128, 512
SMALLEST = 16  # pixels of the coarsest level


def sliced_distance(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """1000 times the distance of two sets of images [N, 3, R, R], R >= 16, averaged over the pyramid's levels.

    The patches are drawn at the same places of both sets, in `seed`'s order; the sets are of one size.
    """
    if a.shape != b.shape:
        raise ValueError(f"two sets of one size are compared; got {list(a.shape)} and {list(b.shape)}")
    random = torch.Generator().manual_seed(seed)
    levels = max(0, (a.shape[3] // SMALLEST).bit_length() - 1)
    pyramids = [laplacian_bands(x.float(), levels) for x in (a, b)]
    found = []
    for one, other in zip(*pyramids, strict=True):
        side = one.shape[3] - PATCH + 1
        places = torch.randint(side * side, (PATCHES,), generator=random).to(a.device)
        first, second = (_patches(level, places) for level in (one, other))
        axes = torch.randn(first.shape[1], PROJECTIONS, generator=random).to(a.device)
        axes = F.normalize(axes, dim=0)
        first, second = ((x @ axes).sort(0).values for x in (first, second))
        found.append((first - second).abs().mean())
    return 1000 * float(torch.stack(found).mean())


def _patches(level: Tensor, places: Tensor) -> Tensor:
    """The patches of [N, 3, r, r] whose corners are some of the places: [N * P, 3 * 49], each color standardized."""
    side = level.shape[3] - PATCH + 1
    inside = torch.arange(PATCH, device=level.device)
    rows, columns = (corner[:, None] + inside for corner in (places // side, places % side))
    patches = level[:, :, rows[:, :, None], columns[:, None, :]].transpose(1, 2)  # [N, P, 3, 7, 7]
    mean, deviation = patches.mean((0, 1, 3, 4), keepdim=True), patches.std((0, 1, 3, 4), keepdim=True)
    return ((patches - mean) / (deviation + 1e-8)).flatten(2).flatten(0, 1)
