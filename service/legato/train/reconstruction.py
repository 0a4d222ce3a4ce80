"""The reconstruction loss of the autoencoder: where a viewer looks, errors weigh more."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EYE_WEIGHT, MOUTH_WEIGHT, SQUARED = 5.0, 2.0, 3.0


def weighted_reconstruction(image: Tensor, target: Tensor, masks: Tensor, levels: int = 4) -> Tensor:
    """Scalar: L1 + 3 MSE + L1 of a Laplacian pyramid's bands (as `losses.laplacian_pyramid_l1`), weighted by region.

    image, target [B, 3, r, r] in [-1, 1]; masks [B, 2, m, m] in [0, 1] (eyes, mouth; any size m). A pixel weighs
    1 + 5 eye + 2 mouth, divided by the mean weight: L1 alone ignores the 3 % of the pixels that make a face.
    """
    weight = 1 + EYE_WEIGHT * masks[:, :1] + MOUTH_WEIGHT * masks[:, 1:2]
    low = image - target
    loss = image.new_zeros(())
    for level in range(levels + 1):
        w = F.interpolate(weight, size=low.shape[2:], mode="area") if weight.shape[2] != low.shape[2] else weight
        w = w / w.mean()
        if level == 0:
            loss = (low.abs() * w).mean() + SQUARED * (low.square() * w).mean()
        if level == levels or low.shape[2] <= 4:
            break
        smaller = F.avg_pool2d(low, 2)
        band = low - F.interpolate(smaller, scale_factor=2, mode="bilinear", align_corners=False)
        loss = loss + (band.abs() * w).mean()
        low = smaller
    return loss + low.abs().mean()


@torch.no_grad()
def mean_psnr(image: Tensor, target: Tensor) -> float:
    """Mean over images of the PSNR in dB, peak 2."""
    error = (image.clamp(-1, 1) - target).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())
