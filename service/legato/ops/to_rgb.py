"""The step of StyleGAN2's skip architecture that makes an image (Karras et al. 2020, fig. 7): ToRGB, a 1x1 modulated
convolution without demodulation, onto the running image upsampled twofold."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.ops import _library
from legato.ops._autograd import eager
from legato.ops._check import check_constants, check_image, check_tensor, precise_dtype
from legato.ops._scale import power_of_two
from legato.ops.upsample2d import upsample2d


def to_rgb_reference(
    x: Tensor,  # [B, I, H, W]
    weight: Tensor,  # [3, I, 1, 1]
    styles: Tensor,  # [B, I]
    *,
    bias: Tensor | None = None,  # [3]
    image: Tensor | None = None,  # [B, 3, H/2, W/2]
    clamp: float | None = None,
) -> Tensor:  # [B, 3, H, W]
    """`to_rgb` in plain torch: any floating dtype, any device, differentiable twice in every argument."""
    check_arguments(x, weight, styles, bias, image, clamp)
    size = power_of_two(styles) if x.dtype == torch.float16 else None
    scaled = x * (styles if size is None else styles / size).to(x.dtype)[:, :, None, None]
    y = F.conv2d(scaled, weight).to(styles.dtype)
    if size is not None:
        y = y * size[:, :, None, None]
    if bias is not None:
        y = y + bias.to(y.dtype)[:, None, None]
    if clamp is not None:
        y = y.clamp(-clamp, clamp)
    return (y if image is None else y + upsample2d(image)).contiguous()


def check_arguments(
    x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor | None, image: Tensor | None, clamp: float | None
) -> None:
    """Raise ValueError or TypeError unless the arguments of `to_rgb` fit together."""
    op = "to_rgb"
    if clamp is not None and not clamp > 0.0:
        raise ValueError(f"{op}: clamp has to be None or positive; got {clamp}")
    check_image(op, "x", x, "[B,I,H,W]")
    batch, channels, height, width = x.shape
    if 0 in (channels, height, width):
        raise ValueError(f"{op}: x has to have at least one channel and pixel; got {list(x.shape)}")
    precise, device = precise_dtype(x), x.device
    check_tensor(op, "weight", weight, (3, channels, 1, 1), "[3,I,1,1]", x.dtype, device)
    check_tensor(op, "styles", styles, (batch, channels), "[B,I]", precise, device)
    if bias is not None:
        check_tensor(op, "bias", bias, (3,), "[3]", x.dtype, device)
    if image is not None:
        if height % 2 or width % 2:
            raise ValueError(f"{op}: x has to have an even height and width beside an image; got {height}x{width}")
        check_tensor(op, "image", image, (batch, 3, height // 2, width // 2), "[B,3,H/2,W/2]", precise, device)


def to_rgb(
    x: Tensor,  # [B, I, H, W]
    weight: Tensor,  # [3, I, 1, 1]
    styles: Tensor,  # [B, I]
    *,
    bias: Tensor | None = None,  # [3]
    image: Tensor | None = None,  # [B, 3, H/2, W/2]
    clamp: float | None = None,
) -> Tensor:  # [B, 3, H, W]
    """clamp(conv1x1(x * styles, weight) + bias) + upsample2d(image), by the fused kernel: one pass over x.

    `clamp` bounds what is added to the image, not the sum. `styles`, `image` and the result are float32 whatever the
    dtype of the rest (float64 beside float64); the result's planes are contiguous. x is taken in any layout, channels
    last being the fastest.

    Differentiable once, in `x`, `styles` and `image`. It gives no gradient to the weight or bias: where one of them
    requires it, as in training, call `to_rgb_reference`; with gradients enabled this function raises ValueError then.
    Raises ValueError or TypeError for arguments that do not fit together, BackendUnavailable where there is no kernel.
    """
    check_arguments(x, weight, styles, bias, image, clamp)
    _library.require("to_rgb", x)
    check_constants("to_rgb", "x, styles and image", weight=weight, bias=bias)
    y: Tensor = _fused(x, weight, styles, bias, image, clamp)
    return y


@_library.after_load
def _register() -> None:
    torch.library.register_fake("legato::to_rgb", _fake)
    torch.library.register_fake("legato::to_rgb_backward", _fake_backward)
    torch.library.register_autograd("legato::to_rgb", _backward, setup_context=_save)
    torch.library.register_autograd("legato::to_rgb_backward", _twice)


def _fake(
    x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor | None, image: Tensor | None, clamp: float | None
) -> Tensor:
    check_arguments(x, weight, styles, bias, image, clamp)
    batch, _, height, width = x.shape
    return styles.new_empty((batch, 3, height, width))


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    bias: Tensor | None,
    clamp: float | None,
    with_image: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, height, width = x.shape
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    grad_image = grad.new_empty((batch, 3, height // 2, width // 2) if with_image else (0,))
    return grad_x, styles.new_empty(styles.shape), grad_image


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, styles, bias, image, ctx.clamp = inputs
    ctx.with_image = image is not None and ctx.needs_input_grad[4]
    ctx.save_for_backward(x, weight, styles, bias)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_styles, grad_image = torch.ops.legato.to_rgb_backward(
        grad, *ctx.saved_tensors, ctx.clamp, ctx.with_image
    )
    return grad_x, None, grad_styles, None, grad_image if ctx.with_image else None, None


def _twice(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("to_rgb is differentiable once; for a second derivative call to_rgb_reference")


_fused = eager("to_rgb", _save, _backward)
