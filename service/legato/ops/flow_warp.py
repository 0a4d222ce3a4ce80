"""Pull warp of an image by a flow.

Convention: flow is [B,2,H,W] in pixels, (x, y) order; pixel centers lie at integers; warped(p) = image(p + flow(p)), bilinear;
positions outside are clamped to the border and marked as not valid. This is `grid_sample` with padding_mode="border" and
align_corners=True, without its normalized coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from legato.ops._check import check_floating, check_tensor


def flow_warp_reference(
    image: Tensor,  # [B, C, H, W]
    flow: Tensor,  # [B, 2, H, W]
) -> tuple[Tensor, Tensor]:  # [B, C, H, W], [B, 1, H, W]
    """`flow_warp` in plain torch: any floating dtype, any device, differentiable twice in both arguments."""
    check_arguments(image, flow)
    batch, channels, height, width = image.shape
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)
    x, y = flow[:, 0] + columns, flow[:, 1] + rows[:, None]  # [B, H, W]
    valid = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x0, x1, fx = _split(x, width)
    y0, y1, fy = _split(y, height)
    fx, fy = fx.to(image.dtype)[:, None], fy.to(image.dtype)[:, None]
    pixels = image.flatten(2)

    def tap(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column).view(batch, 1, height * width).expand(batch, channels, height * width)
        return pixels.gather(2, index).view(batch, channels, height, width)

    top = torch.lerp(tap(y0, x0), tap(y0, x1), fx.expand_as(image))
    bottom = torch.lerp(tap(y1, x0), tap(y1, x1), fx.expand_as(image))
    return torch.lerp(top, bottom, fy.expand_as(image)), valid[:, None].to(image.dtype)


def _split(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower tap, upper tap and the fraction between them of a position clamped to [0, size - 1]; NaN counts as 0."""
    position = torch.where(position.isnan(), torch.zeros_like(position), position).clamp(0, size - 1)
    lower = position.detach().floor()
    first = lower.long()
    return first, (first + 1).clamp(max=size - 1), position - lower


def check_arguments(image: Tensor, flow: Tensor) -> None:
    """Raise ValueError or TypeError unless the arguments of `flow_warp` fit together."""
    op = "flow_warp"
    check_floating(op, "image", image)
    check_floating(op, "flow", flow)
    check_tensor(op, "image", image, (None, None, None, None), "[B,C,H,W]", image)
    batch, _, height, width = image.shape
    wanted = torch.float64 if image.dtype == torch.float64 else torch.float32
    if flow.dtype != wanted:
        raise TypeError(f"{op}: flow of a {image.dtype} image has to be {wanted}; got {flow.dtype}")
    check_tensor(op, "flow", flow, (batch, 2, height, width), "[B,2,H,W]", flow)
    if flow.device != image.device:
        raise ValueError(f"{op}: flow has to be on the device of image, {image.device}; got {flow.device}")


def flow_warp(
    image: Tensor,  # [B, C, H, W]
    flow: Tensor,  # [B, 2, H, W]
) -> tuple[Tensor, Tensor]:  # [B, C, H, W], [B, 1, H, W]
    """warped(p) = image(p + flow(p)), and 1 where p + flow(p) lies within the image, 0 elsewhere.

    The flow is float32 whatever the image's dtype (float64 for a float64 image): half precision cannot hold pixels. A flow of
    NaN reads the border and is not valid. The gradient to the flow is that of the bilinear surface (forward difference at a
    pixel center), 0 across a clamped axis; the validity has none.
    """
    return flow_warp_reference(image, flow)
