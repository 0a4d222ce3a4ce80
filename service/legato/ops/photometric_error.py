"""How well a warped image explains another, where the flow can be trusted: warp, masks and error in one pass.

Convention: that of `flow_warp`, whose `warped` and `valid` these are.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from legato.ops import _library
from legato.ops._autograd import eager
from legato.ops._check import check_tensor
from legato.ops.flow_warp import check_arguments as check_warp
from legato.ops.flow_warp import flow_warp_reference, warp_gradients

Penalty = Literal["l1", "l2", "charbonnier"]
PENALTIES = ("l1", "l2", "charbonnier")  # by the number that the kernels know them by
EPSILON = 1e-3  # of Charbonnier's penalty


def photometric_error_reference(
    image: Tensor,  # [B, C, H, W]
    target: Tensor,  # [B, C, H, W]
    flow: Tensor,  # [B, 2, H, W]
    *,
    backward: Tensor | None = None,  # [B, 2, H, W]
    boundaries: bool = False,
    penalty: Penalty = "l1",
    epsilon: float = EPSILON,
) -> tuple[Tensor, Tensor, Tensor]:  # [B], [B, C, H, W], [B, 1, H, W]
    """`photometric_error` in plain torch: any floating dtype, any device, differentiable twice except at a kink."""
    check_arguments(image, target, flow, backward, penalty, epsilon)
    warped, valid = flow_warp_reference(image, flow, backward=backward, boundaries=boundaries)
    seen = valid.to(flow.dtype)
    # what is hidden is replaced, not multiplied by 0: a NaN there is nobody's business
    gap = torch.where(seen > 0, warped.to(flow.dtype) - target.to(flow.dtype), 0.0)
    if penalty == "l1":
        cost = gap.abs()
    elif penalty == "l2":
        cost = gap.square()
    else:
        cost = (gap.square() + epsilon**2).sqrt()
    count = (image.shape[1] * seen.sum((1, 2, 3))).clamp(min=1.0)
    return (cost * seen).sum((1, 2, 3)) / count, warped, valid


def check_arguments(
    image: Tensor, target: Tensor, flow: Tensor, backward: Tensor | None, penalty: str, epsilon: float
) -> None:
    """Raise ValueError or TypeError unless the arguments of `photometric_error` fit together."""
    op = "photometric_error"
    if penalty not in PENALTIES:
        raise ValueError(f"{op}: penalty has to be one of {', '.join(PENALTIES)}; got {penalty!r}")
    if not 0.0 < epsilon < math.inf:
        raise ValueError(f"{op}: epsilon has to be positive and finite; got {epsilon}")
    check_warp(op, image, flow, backward)
    check_tensor(op, "target", target, image.shape, "[B,C,H,W]", image.dtype, image.device)


def photometric_error(
    image: Tensor,  # [B, C, H, W]
    target: Tensor,  # [B, C, H, W]
    flow: Tensor,  # [B, 2, H, W]
    *,
    backward: Tensor | None = None,  # [B, 2, H, W]
    boundaries: bool = False,
    penalty: Penalty = "l1",
    epsilon: float = EPSILON,
) -> tuple[Tensor, Tensor, Tensor]:  # [B], [B, C, H, W], [B, 1, H, W]
    """(error, warped, valid): the mean penalty of warped - target over channels and valid pixels, in one pass.

    error_b = sum_p valid(p) sum_c rho(warped - target) / (C max(sum_p valid(p), 1)), with rho(d) = |d| ("l1"), d^2
    ("l2") or sqrt(d^2 + epsilon^2) (Charbonnier et al. 1994); 0 where nothing is valid. `warped` and `valid` are those
    of `flow_warp` with the same `backward` and `boundaries`; the error is float32 (float64 for a float64 image).

    A NaN in a pixel that is not valid does not reach the error. Gradients go to image, target and flow, from the error
    and from `warped`, with the mask held fixed; |d| has slope 0 at 0. Differentiable once; twice:
    `photometric_error_reference`. Raises ValueError or TypeError for arguments that do not fit together,
    BackendUnavailable where there is no kernel.
    """
    check_arguments(image, target, flow, backward, penalty, epsilon)
    _library.require("photometric_error", image)
    error, warped, valid = _fused(image, target, flow, backward, boundaries, PENALTIES.index(penalty), epsilon)
    return error, warped, valid


@_library.after_load
def _register() -> None:
    torch.library.register_fake("legato::photometric_error", _fake)
    torch.library.register_fake("legato::photometric_error_backward", _fake_backward)
    torch.library.register_autograd("legato::photometric_error", _backward, setup_context=_save)
    torch.library.register_autograd("legato::photometric_error_backward", _twice)


def _fake(
    image: Tensor,
    target: Tensor,
    flow: Tensor,
    backward: Tensor | None,
    boundaries: bool,
    penalty: int,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    check_arguments(image, target, flow, backward, PENALTIES[penalty], epsilon)
    batch, _, height, width = image.shape
    return flow.new_empty(batch), image.new_empty(image.shape), image.new_empty((batch, 1, height, width))


def _fake_backward(
    grad_error: Tensor, warped: Tensor, target: Tensor, valid: Tensor, penalty: int, epsilon: float
) -> Tensor:
    return warped.new_empty(warped.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    image, target, flow, _, _, ctx.penalty, ctx.epsilon = inputs
    _, warped, valid = output
    ctx.mark_non_differentiable(valid)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(image if ctx.needs_input_grad[2] else None, target, flow, warped, valid)


def _backward(
    ctx: Any, grad_error: Tensor | None, grad_warped: Tensor | None, _: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    image, target, flow, warped, valid = ctx.saved_tensors
    with_image, with_target, with_flow = ctx.needs_input_grad[:3]
    grad_image = grad_target = grad_flow = None
    if grad_error is not None:
        grad = torch.ops.legato.photometric_error_backward(grad_error, warped, target, valid, ctx.penalty, ctx.epsilon)
        grad_target = -grad if with_target else None
        grad_warped = grad if grad_warped is None else grad + grad_warped
    if grad_warped is not None:
        grad_image, grad_flow = warp_gradients(grad_warped, image, flow, with_image, with_flow)
    return grad_image, grad_target, grad_flow, None, None, None, None


def _twice(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "photometric_error is differentiable once; for a second derivative call photometric_error_reference"
    )


_fused = eager("photometric_error", _save, _backward)
