"""Formulations of warp, masks and photometric error with `F.grid_sample`, to be raced against the fused ops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.benchmarks.layers import Work

CHANNELS = 3


@dataclass(frozen=True, slots=True)
class WarpInputs:
    """Two images and the flows between them, and the constants that a pipeline keeps."""

    image: Tensor  # [B, 3, R, R] T
    target: Tensor  # [B, 3, R, R] T
    flow: Tensor  # [B, 2, R, R] float32
    backward: Tensor  # [B, 2, R, R] float32
    grid: Tensor  # [1, 2, R, R] float32, x and y of every pixel
    scale: Tensor  # [1, 2, 1, 1] float32, pixels to normalized coordinates

    @classmethod
    def random(cls, side: int, batch: int, dtype: torch.dtype, device: torch.device, seed: int) -> WarpInputs:
        """Smooth flows of some pixels that mostly agree with each other, as between two frames."""
        random = torch.Generator().manual_seed(seed)

        def smooth(channels: int, knots: int) -> Tensor:
            values = torch.randn(batch, channels, knots, knots, generator=random)
            return F.interpolate(values, size=(side, side), mode="bicubic", align_corners=True)

        flow = 3.0 * smooth(2, 6)
        image = smooth(CHANNELS, side // 8)
        axis = torch.arange(side, dtype=torch.float32)
        return cls(
            image=image.to(device, dtype),
            target=(image + 0.1 * smooth(CHANNELS, side // 4)).to(device, dtype),
            flow=flow.to(device),
            backward=(0.3 * smooth(2, 6) - flow).to(device),
            grid=torch.stack([axis.expand(side, side), axis[:, None].expand(side, side)])[None].to(device),
            scale=torch.full((1, 2, 1, 1), 2.0 / (side - 1)).to(device),
        )


def warp_work(side: int, batch: int, element: int, *, backward: bool) -> Work:
    """flow_warp: image and flow in, warped and validity out; `backward` alone, to both."""
    pixels = batch * side**2
    if backward:  # reads the gradient, image and flow; writes both gradients
        return Work(0.0, pixels * (3 * CHANNELS * element + 2 * 8))
    return Work(0.0, pixels * ((2 * CHANNELS + 1) * element + 8))


def error_work(side: int, batch: int, element: int, *, backward: bool) -> Work:
    """photometric_error: both images and flows in, warped and validity out; `backward` alone, to both images."""
    pixels = batch * side**2
    if backward:  # reads warped, target, validity and flow; writes both gradients
        return Work(0.0, pixels * ((4 * CHANNELS + 1) * element + 8))
    return Work(0.0, pixels * ((3 * CHANNELS + 1) * element + 2 * 8))


def sampled(image: Tensor, position: Tensor, scale: Tensor) -> Tensor:
    """The image at `position` [B, 2, H, W], in pixels. grid_sample wants image and grid of one dtype, and half
    precision cannot hold pixels: the image is sampled in float32."""
    grid = (position * scale - 1.0).permute(0, 2, 3, 1)
    return F.grid_sample(image.float(), grid, mode="bilinear", padding_mode="border", align_corners=True).to(
        image.dtype
    )


def inside(position: Tensor) -> Tensor:
    """[B, 1, H, W] bool: within the image."""
    height, width = position.shape[-2:]
    x, y = position[:, :1], position[:, 1:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def warp(image: Tensor, flow: Tensor, grid: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """What `flow_warp` gives."""
    position = grid + flow
    return sampled(image, position, scale), inside(position).to(image.dtype)


def error(
    image: Tensor, target: Tensor, flow: Tensor, backward: Tensor, grid: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What `photometric_error` gives with both masks and l1."""
    position = grid + flow
    warped, returned = sampled(image, position, scale), sampled(backward, position, scale)
    return _masked(warped, returned, position, target, flow)


def error_in_one(
    image: Tensor, target: Tensor, flow: Tensor, backward: Tensor, grid: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`error` with image and flow sampled together."""
    position = grid + flow
    both = sampled(torch.cat([image.float(), backward], 1), position, scale)
    return _masked(both[:, :CHANNELS].to(image.dtype), both[:, CHANNELS:], position, target, flow)


def _masked(
    warped: Tensor, returned: Tensor, position: Tensor, target: Tensor, flow: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    length = flow.square().sum(1, keepdim=True)
    gap = (flow + returned).square().sum(1, keepdim=True)
    down = torch.diff(flow, dim=2, append=flow[:, :, -1:])
    right = torch.diff(flow, dim=3, append=flow[:, :, :, -1:])
    boundary = (down.square() + right.square()).sum(1, keepdim=True) > 0.01 * length + 0.002
    seen = gap <= 0.01 * (length + returned.square().sum(1, keepdim=True)) + 0.5
    valid = (inside(position) & seen & ~boundary).to(flow.dtype)
    total = ((warped - target).abs().float() * valid).sum((1, 2, 3))
    return total / (CHANNELS * valid.sum((1, 2, 3)).clamp_min(1.0)), warped, valid.to(warped.dtype)
