"""Distances between images, each one number per image: [B, C, H, W] x [B, C, H, W] -> [B]. Images are in [-1, 1].

None of them has weights; `perceptual_distance` compares what a network of `models.perceptual` gave. Sums over a batch
keep the images independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.models.perceptual import Penalty

PEAK = 2.0  # difference of white and black in [-1, 1]


def l1(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of two [B, C, H, W] images: [B]. The pixel term of pix2pix (Isola et al. 2017)."""
    return (image - target).abs().mean((1, 2, 3))


def mse(image: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of two [B, C, H, W] images: [B].

    The pixel term of Abdal et al. 2019 (Image2StyleGAN, eq. 1).
    """
    return (image - target).square().mean((1, 2, 3))


def masked_mse(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over the pixels where `mask` [B, 1, H, W] is 1, divided by all pixels: [B].

    With `target` the last output warped by the flow of the real frames and `mask` its visible part, this is the
    short-term temporal loss of Lai et al. 2018 (Learning Blind Video Temporal Consistency, eq. 2), squared as the terms
    beside it are, with a binary mask.
    Dividing by all pixels lets a frame that is mostly hidden pull less.
    """
    return ((image - target).square() * mask).mean((1, 2, 3))


def laplacian_pyramid_l1(image: Tensor, target: Tensor, levels: int = 4) -> Tensor:
    """Sum over the bands of a Laplacian pyramid of the mean absolute difference, low-pass rest included: [B].

    The pyramid is Burt and Adelson's (1983) with average pooling down and bilinear interpolation up; as a loss between
    images after Bojanowski et al. 2018 (Optimizing the Latent Space of Generative Networks, section 3.2), with equal
    weights of the bands. It ends early where the low-pass image would be smaller than 4 pixels. The bands are linear in
    the image, so those of the difference are the differences of the bands.
    """
    bands = laplacian_bands(image - target, levels)
    return torch.stack([band.abs().mean((1, 2, 3)) for band in bands]).sum(0)


def laplacian_bands(image: Tensor, levels: int = 4) -> list[Tensor]:
    """The pyramid of an image [B, C, H, W]: up to `levels` bands, each half the size of the last, and the rest."""
    low, bands = image, []
    for _ in range(min(levels, int(math.log2(min(low.shape[2:]))) - 2)):
        smaller = F.avg_pool2d(low, 2)
        up = F.interpolate(smaller, size=low.shape[2:], mode="bilinear", align_corners=False)
        bands.append(low - up)
        low = smaller
    return [*bands, low]


def perceptual_distance(found: Sequence[Tensor], wanted: Sequence[Tensor], penalty: Penalty = "mse") -> Tensor:
    """Sum over the maps, each [B, C, h, w], of the mean squared ("l1": absolute) difference: [B].

    found, wanted: `features` of two batches of images; those of a target that stays are found once. The content term
    of Johnson et al. 2016 (Perceptual Losses, eq. 2); which maps, and with which penalty, differs from paper to paper
    (`models.perceptual.SLICES`). Raises ValueError where the maps are not of the same network.
    """
    if [x.shape[1:] for x in found] != [x.shape[1:] for x in wanted] or not found:
        shapes = [[list(x.shape) for x in maps] for maps in (found, wanted)]
        raise ValueError(f"maps of one network at one resolution are compared; got {shapes[0]} and {shapes[1]}")
    distance = l1 if penalty == "l1" else mse
    return torch.stack([distance(a, b) for a, b in zip(found, wanted, strict=True)]).sum(0)


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of [B, C, H, W] images in dB: [B]; at most 100.

    `image` is clamped to [-1, 1], as when it is shown.
    """
    error = mse(image.clamp(-1.0, 1.0), target)
    return 10.0 * torch.log10(PEAK**2 / error.clamp_min(PEAK**2 * 1e-10))
