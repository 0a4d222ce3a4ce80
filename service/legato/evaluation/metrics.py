"""Metrics of inverted and edited images, each with the paper and the protocol that it is taken from.

Images are [B, 3, R, R] in [-1, 1]; a clip's frames are a batch in order. Beside these: `losses.psnr` (dB) and
`losses.mse`, which published tables give on [0, 1], a quarter of it on [-1, 1]; `losses.perceptual_distance` of
`models.perceptual.load_lpips` is LPIPS; `frechet.feature_distance` with a named network is FID with that network. NIQE
is not here: no light and maintained package offers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from legato.losses import PEAK
from legato.models.attributes import AttributeNetwork
from legato.models.flow import MAX_SIDE, DisFlow, gray, resize_flow, visible
from legato.ops import flow_warp
from legato.synthetic.factors import MOTION

_WINDOW, _SIGMA = 11, 1.5
_BATCH = 16


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity of [B, C, H, W] images: [B], at most 1.

    Wang et al. 2004 (Image Quality Assessment, eq. 13 and 15): an 11 x 11 Gaussian window of deviation 1.5, whole
    windows only, K1 = .01, K2 = .03, population moments; the mean over windows, and over the channels where the paper
    has gray images. `image` is clamped to [-1, 1], as when it is shown. Raises ValueError below 11 pixels.
    """
    if image.shape != target.shape or image.dim() != 4 or min(image.shape[2:]) < _WINDOW:
        raise ValueError(
            f"two [B, C, H, W] of at least {_WINDOW} pixels are wanted; "
            f"got {list(image.shape)} and {list(target.shape)}"
        )
    x, y = image.clamp(-1, 1), target
    offset = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    taps = torch.softmax(-offset.square() / (2 * _SIGMA**2), 0)
    means = [_filtered(t, taps) for t in (x, y, x * x, y * y, x * y)]
    mx, my = means[0], means[1]
    vx, vy, cov = means[2] - mx * mx, means[3] - my * my, means[4] - mx * my
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    # The paper's luminance term has its origin at black, which is -1 here.
    lx, ly = mx + 1, my + 1
    similarity = (2 * lx * ly + c1) * (2 * cov + c2) / ((lx * lx + ly * ly + c1) * (vx + vy + c2))
    return similarity.mean((1, 2, 3))


def _filtered(x: Tensor, taps: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    planes = x.reshape(batch * channels, 1, height, width)
    planes = F.conv2d(F.conv2d(planes, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    return planes.view(batch, channels, *planes.shape[2:])


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """How each frame of a source clip but the first came from the one before it."""

    flow: Tensor  # [T - 1, 2, R, R], pull: previous(p + flow(p)) ~ current(p)
    visible: Tensor  # [T - 1, 1, R, R]: 1 where that can be trusted


def estimated_motion(frames: NDArray[np.uint8]) -> Motion:
    """Motion of real frames [T, R, R, 3] by DIS flow, masked as Lai et al. 2018 do: forward-backward check, motion
    boundaries (`models.flow.visible`). Of rendered clips the truth is known: `synthetic.clips.clip_flow`."""
    side = min(frames.shape[1], MAX_SIDE)
    dis, images = DisFlow(), [gray(frame, side) for frame in frames]
    pairs = [dis.both(current, previous) for previous, current in pairwise(images)]
    if not pairs:
        raise ValueError(f"motion is between at least 2 frames; got {list(frames.shape)}")
    forward, backward = (resize_flow(torch.cat(flows), frames.shape[1]) for flows in zip(*pairs, strict=True))
    return Motion(forward, visible(forward, backward))


def warp_error(frames: Tensor, motion: Motion) -> Tensor:
    """Mean squared change [T - 1] along the source's motion of frames [T, 3, R, R], on [0, 1] images.

    Lai et al. 2018 (Learning Blind Video Temporal Consistency, eq. 5): sum(M (V_t - warp(V_t-1))^2) / sum(M), flow and
    mask M of the source clip; a clip's value is the mean over its pairs, a table's the mean over clips. 0 where a pair
    shows nothing trusted.
    """
    if frames.shape[0] != motion.flow.shape[0] + 1 or frames.shape[2:] != motion.flow.shape[2:]:
        raise ValueError(f"frames {list(frames.shape)} have motion of one less; got flow {list(motion.flow.shape)}")
    warped, _ = flow_warp(frames[:-1].contiguous(), motion.flow.to(frames).contiguous())
    error = ((frames[1:] - warped) / PEAK).square().mean(1, keepdim=True) * motion.visible.to(frames)
    return error.sum((1, 2, 3)) / motion.visible.to(frames).sum((1, 2, 3)).clamp(min=1.0)


def identity_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine [N] of two sets of embeddings [N, E]: ID of the inversion papers, with whatever network embeds."""
    return F.cosine_similarity(a, b, dim=1)


def temporal_identity(source: Tensor, edited: Tensor) -> tuple[float, float]:
    """(TL-ID, TG-ID) of a clip's embeddings [T, E]: 1 is as consistent as the source clip.

    Tzaban et al. 2022 (Stitch it in Time): with S the cosines between frames, R = S_edited / S_source element by
    element; TL-ID is the mean over adjacent frames, TG-ID over all pairs. Raises ValueError for less than 2 frames.
    """
    if source.shape[:1] != edited.shape[:1] or len(source) < 2:
        raise ValueError(
            f"embeddings [T, E] of the same 2 or more frames; got {list(source.shape)}, {list(edited.shape)}"
        )
    ratio = _cosines(edited) / _cosines(source)
    others = ~torch.eye(len(ratio), dtype=torch.bool, device=ratio.device)
    return float(ratio.diagonal(1).mean()), float(ratio[others].mean())


def _cosines(embeddings: Tensor) -> Tensor:
    unit = F.normalize(embeddings.double(), dim=1)
    return unit @ unit.T


@torch.no_grad()
def identity_embedding(network: AttributeNetwork, images: Tensor, *, without: Sequence[str] = ()) -> Tensor:
    """[N, E] of rendered heads: what an attribute network reads of who is shown, in standard deviations.

    All attributes but pose and expression, and `without` (an edited one): heads of different people average a cosine of
    0, the same head in another pose has 1 up to what the network misreads. Raises ValueError where nothing is left.
    """
    kept = [i for i, name in enumerate(network.config.names) if name not in MOTION and name not in without]
    if not kept:
        raise ValueError(f"no attribute of identity is left of {network.config.names} without {list(without)}")
    return torch.cat([network.standardized(chunk.clamp(-1, 1))[:, kept] for chunk in images.split(_BATCH)])


def latent_error(found: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference [B] of codes [B, L, D] and those that made the images.

    For the synthetic protocol of Xu et al. 2021 as reconstructed: codes along a direction of the generator's own. The
    scale of the published figures is not known.
    """
    return (found - truth).square().mean((1, 2))
