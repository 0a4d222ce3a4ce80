"""Pull warp of an image by a flow.

Convention: flow is [B,2,H,W] in pixels, (x, y) order; pixel centers lie at integers; warped(p) = image(p + flow(p)),
bilinear; positions outside are clamped to the border and marked as not valid. This is `grid_sample` with
padding_mode="border" and align_corners=True, without its normalized coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from legato.ops import _library
from legato.ops._check import check_image, check_tensor, precise_dtype


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
    check_image("flow_warp", "image", image, "[B,C,H,W]")
    batch, _, height, width = image.shape
    check_tensor("flow_warp", "flow", flow, (batch, 2, height, width), "[B,2,H,W]", precise_dtype(image), image.device)


def flow_warp(
    image: Tensor,  # [B, C, H, W]
    flow: Tensor,  # [B, 2, H, W]
) -> tuple[Tensor, Tensor]:  # [B, C, H, W], [B, 1, H, W]
    """warped(p) = image(p + flow(p)), and 1 where p + flow(p) lies within the image, 0 elsewhere.

    The flow is float32 whatever the image's dtype (float64 for a float64 image): half precision cannot hold pixels. A
    flow of NaN reads the border and is not valid. The gradient to the flow is that of the bilinear surface (forward
    difference at a pixel center), 0 across a clamped axis; the validity has none. Differentiable once; twice:
    `flow_warp_reference`. Raises ValueError or TypeError for arguments that do not fit together, BackendUnavailable
    where there is no kernel.
    """
    check_arguments(image, flow)
    _library.require("flow_warp", image)
    warped, valid = torch.ops.legato.flow_warp(image, flow)
    return warped, valid


@_library.after_load
def _register() -> None:
    torch.library.register_fake("legato::flow_warp", _fake)
    torch.library.register_fake("legato::flow_warp_backward_image", lambda grad, flow: _planes(grad, grad.shape))
    torch.library.register_fake("legato::flow_warp_backward_flow", lambda grad, image, flow: _planes(flow, flow.shape))
    torch.library.register_autograd("legato::flow_warp", _backward, setup_context=_save)
    for gradient in ("image", "flow"):
        torch.library.register_autograd(f"legato::flow_warp_backward_{gradient}", _twice)


def _planes(like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_empty(shape)


def _fake(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    check_arguments(image, flow)
    batch, _, height, width = image.shape
    return _planes(image, image.shape), _planes(image, (batch, 1, height, width))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    image, flow = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(image if ctx.needs_input_grad[1] else None, flow)


def _backward(ctx: Any, grad_warped: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None]:
    image, flow = ctx.saved_tensors
    ops = torch.ops.legato
    grad_image = ops.flow_warp_backward_image(grad_warped, flow) if ctx.needs_input_grad[0] else None
    grad_flow = ops.flow_warp_backward_flow(grad_warped, image, flow) if ctx.needs_input_grad[1] else None
    return grad_image, grad_flow


def _twice(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("flow_warp is differentiable once; for a second derivative call flow_warp_reference")
