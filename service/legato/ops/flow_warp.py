"""Pull warp of an image by a flow, and where the flow can be trusted.

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
from legato.ops._autograd import eager
from legato.ops._check import check_image, check_tensor, precise_dtype


def flow_warp_reference(
    image: Tensor,  # [B, C, H, W]
    flow: Tensor,  # [B, 2, H, W]
    *,
    backward: Tensor | None = None,  # [B, 2, H, W]
    boundaries: bool = False,
) -> tuple[Tensor, Tensor]:  # [B, C, H, W], [B, 1, H, W]
    """`flow_warp` in plain torch: any floating dtype, any device, differentiable twice in image and flow."""
    check_arguments("flow_warp", image, flow, backward)
    warped, valid = _sample(image, flow)
    if backward is not None:
        valid = valid & _consistent(flow.detach(), _sample(backward.detach(), flow.detach())[0])
    if boundaries:
        valid = valid & _smooth(flow.detach())
    return warped, valid.to(image.dtype)


def _sample(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """The image [B, C, H, W] at p + flow(p), and where that lies inside [B, 1, H, W]."""
    batch, channels, height, width = image.shape
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)
    x, y = flow[:, 0] + columns, flow[:, 1] + rows[:, None]  # [B, H, W]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x0, x1, fx = _split(x, width)
    y0, y1, fy = _split(y, height)
    fx, fy = fx.to(image.dtype)[:, None], fy.to(image.dtype)[:, None]
    pixels = image.flatten(2)

    def tap(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column).view(batch, 1, height * width).expand(batch, channels, height * width)
        return pixels.gather(2, index).view(batch, channels, height, width)

    top = torch.lerp(tap(y0, x0), tap(y0, x1), fx.expand_as(image))
    bottom = torch.lerp(tap(y1, x0), tap(y1, x1), fx.expand_as(image))
    return torch.lerp(top, bottom, fy.expand_as(image)), inside[:, None]


def _split(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower tap, upper tap and the fraction between them of a position clamped to [0, size - 1]; NaN counts as 0."""
    position = torch.where(position.isnan(), torch.zeros_like(position), position).clamp(0, size - 1)
    lower = position.detach().floor()
    first = lower.long()
    return first, (first + 1).clamp(max=size - 1), position - lower


def _consistent(flow: Tensor, returned: Tensor) -> Tensor:
    """The forward-backward check of Sundaram et al. 2010, eq. 5: |f + b|^2 <= 0.01 (|f|^2 + |b|^2) + 0.5, b at p+f."""
    gap = (flow + returned).square().sum(1, keepdim=True)
    return (gap <= 0.01 * (_squared(flow) + _squared(returned)) + 0.5) & gap.isfinite()


def _smooth(flow: Tensor) -> Tensor:
    """Where there is no motion boundary, eq. 6: |grad f|^2 <= 0.01 |f|^2 + 0.002, forward differences."""
    down = torch.diff(flow, dim=2, append=flow[:, :, -1:])
    right = torch.diff(flow, dim=3, append=flow[:, :, :, -1:])
    return _squared(down) + _squared(right) <= 0.01 * _squared(flow) + 0.002


def _squared(flow: Tensor) -> Tensor:
    return flow.square().sum(1, keepdim=True)


def check_arguments(op: str, image: Tensor, flow: Tensor, backward: Tensor | None) -> None:
    """Raise ValueError or TypeError unless image, flow and opposite flow of `op` fit together."""
    check_image(op, "image", image, "[B,C,H,W]")
    batch, _, height, width = image.shape
    for name, vectors in (("flow", flow), ("backward", backward)):
        if vectors is not None:
            sizes = (batch, 2, height, width)
            check_tensor(op, name, vectors, sizes, "[B,2,H,W]", precise_dtype(image), image.device)


def flow_warp(
    image: Tensor,  # [B, C, H, W]
    flow: Tensor,  # [B, 2, H, W]
    *,
    backward: Tensor | None = None,  # [B, 2, H, W]
    boundaries: bool = False,
) -> tuple[Tensor, Tensor]:  # [B, C, H, W], [B, 1, H, W]
    """warped(p) = image(p + flow(p)), and valid(p): 1 where the flow can be trusted, 0 elsewhere.

    Valid are pixels for which p + flow(p) lies within the image; given the opposite flow `backward`, b, that also pass
    the forward-backward check |f + b(p+f)|^2 <= 0.01 (|f|^2 + |b(p+f)|^2) + 0.5; and, with `boundaries`, that are no
    motion boundary: |grad f|^2 <= 0.01 |f|^2 + 0.002, by forward differences, 0 at the last row and column (Sundaram et
    al. 2010, Dense Point Trajectories, eq. 5 and 6; the constants as Lai et al. 2018 use them). An image without
    channels, C = 0, asks for `valid` alone.

    Flows are float32 whatever the image's dtype (float64 for a float64 image): half precision cannot hold pixels. A
    flow of NaN reads the border and is not valid. The gradient to the flow is that of the bilinear surface (forward
    difference at a pixel center), 0 across a clamped axis; `valid` has none. The gradient to the image is summed in a
    fixed order where torch.use_deterministic_algorithms asks for it, on the CPU always. Differentiable once; twice:
    `flow_warp_reference`. Raises ValueError or TypeError for arguments that do not fit together, BackendUnavailable
    where there is no kernel.
    """
    check_arguments("flow_warp", image, flow, backward)
    _library.require("flow_warp", image)
    warped, valid = _fused(image, flow, backward, boundaries)
    return warped, valid


def warp_gradients(
    grad_warped: Tensor,  # [B, C, H, W]
    image: Tensor | None,  # [B, C, H, W], None unless with_flow
    flow: Tensor,  # [B, 2, H, W]
    with_image: bool,
    with_flow: bool,
) -> tuple[Tensor | None, Tensor | None]:  # [B, C, H, W], [B, 2, H, W]
    """The gradients to image and flow that follow from the gradient to the warped image."""
    ops, deterministic = torch.ops.legato, torch.are_deterministic_algorithms_enabled()
    grad_image = ops.flow_warp_backward_image(grad_warped, flow, deterministic) if with_image else None
    return grad_image, ops.flow_warp_backward_flow(grad_warped, image, flow) if with_flow else None


@_library.after_load
def _register() -> None:
    torch.library.register_fake("legato::flow_warp", _fake)
    torch.library.register_fake("legato::flow_warp_backward_image", lambda grad, flow, _: _planes(grad, grad.shape))
    torch.library.register_fake("legato::flow_warp_backward_flow", lambda grad, image, flow: _planes(flow, flow.shape))
    torch.library.register_autograd("legato::flow_warp", _backward, setup_context=_save)
    for gradient in ("image", "flow"):
        torch.library.register_autograd(f"legato::flow_warp_backward_{gradient}", _twice)


def _planes(like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_empty(shape)


def _fake(image: Tensor, flow: Tensor, backward: Tensor | None, boundaries: bool) -> tuple[Tensor, Tensor]:
    check_arguments("flow_warp", image, flow, backward)
    batch, _, height, width = image.shape
    return _planes(image, image.shape), _planes(image, (batch, 1, height, width))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    image, flow, _, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(image if ctx.needs_input_grad[1] else None, flow)


def _backward(ctx: Any, grad_warped: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    image, flow = ctx.saved_tensors
    return *warp_gradients(grad_warped, image, flow, *ctx.needs_input_grad[:2]), None, None


def _twice(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("flow_warp is differentiable once; for a second derivative call flow_warp_reference")


_fused = eager("flow_warp", _save, _backward)
