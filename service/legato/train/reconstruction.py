"""The reconstruction loss of the autoencoder: where a viewer looks, errors weigh more."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.losses import laplacian_bands, psnr

EYE_WEIGHT, MOUTH_WEIGHT, SQUARED = 5.0, 2.0, 3.0


def weighted_reconstruction(image: Tensor, target: Tensor, masks: Tensor, levels: int = 4) -> Tensor:
    """Scalar: L1 + 3 MSE + L1 of a Laplacian pyramid's bands (as `losses.laplacian_pyramid_l1`), weighted by region.

    image, target [B, 3, r, r] in [-1, 1]; masks [B, 2, m, m] in [0, 1] (eyes, mouth; any size m). A pixel weighs
    1 + 5 eye + 2 mouth, divided by the mean weight: L1 alone ignores the 3 % of the pixels that make a face.
    """
    weight = 1 + EYE_WEIGHT * masks[:, :1] + MOUTH_WEIGHT * masks[:, 1:2]

    def at(size: torch.Size) -> Tensor:
        w = F.interpolate(weight, size=size, mode="area") if weight.shape[2:] != size else weight
        return w / w.mean()

    error = image - target
    whole = at(error.shape[2:])
    loss = (error.abs() * whole).mean() + SQUARED * (error.square() * whole).mean()
    *bands, rest = laplacian_bands(error, levels)
    for band in bands:
        loss = loss + (band.abs() * at(band.shape[2:])).mean()
    return loss + rest.abs().mean()


@torch.no_grad()
def mean_psnr(image: Tensor, target: Tensor) -> float:
    """Mean over images of the PSNR in dB, peak 2."""
    return float(psnr(image, target).mean())
