"""StyleGAN2's modulated convolution with a weight that all samples share (Karras et al. 2020, section 2.2, eq. 1-3).

Scaling the weight by each sample's style and normalizing it, as published, is the same as scaling the input by the
style and the output by the demodulation factor. So no [B,O,I,k,k] tensor exists, and one dense convolution serves the
whole batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.ops import _library
from legato.ops._autograd import eager
from legato.ops._check import check_constants, check_image, check_tensor, precise_dtype
from legato.ops._scale import power_of_two

EPSILON = 1e-8  # of the demodulation, as published
SQRT2 = math.sqrt(2.0)


def modulated_conv2d_reference(
    x: Tensor,  # [B, I, H, W]
    weight: Tensor,  # [O, I, k, k]
    styles: Tensor,  # [B, I]
    *,
    q: Tensor | None = None,  # [O, I]
    noise: Tensor | None = None,  # [1 or B, 1, H*up, W*up]
    bias: Tensor | None = None,  # [O]
    up: int = 1,
    slope: float = 0.2,
    gain: float = SQRT2,
    clamp: float | None = None,
) -> Tensor:  # [B, O, H*up, W*up]
    """`modulated_conv2d` in plain torch: any floating dtype, any device, differentiable twice in every argument."""
    check_arguments(x, weight, styles, q, noise, bias, up, slope, gain, clamp)
    size = power_of_two(styles) if x.dtype == torch.float16 else None
    y = x * (styles if size is None else styles / size).to(x.dtype)[:, :, None, None]
    if up == 1:
        y = F.conv2d(y, weight, padding=weight.shape[2] // 2)
    else:
        y = _smooth(F.conv_transpose2d(y, weight.transpose(0, 1), stride=2))
    scale = None if q is None else torch.rsqrt(styles.square() @ q.t() + EPSILON)
    if size is not None:  # in float32: the size itself may be too large for float16
        y = (y * (size if scale is None else scale * size)[:, :, None, None]).to(x.dtype)
    elif scale is not None:
        y = y * scale.to(x.dtype)[:, :, None, None]
    if noise is not None:
        y = y + noise
    if bias is not None:
        y = y + bias[:, None, None]
    if slope != 1.0:
        y = F.leaky_relu(y, slope)
    if gain != 1.0:
        y = y * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def check_arguments(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    q: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    up: int,
    slope: float,
    gain: float,
    clamp: float | None,
) -> None:
    """Raise ValueError or TypeError unless the arguments of `modulated_conv2d` fit together."""
    op = "modulated_conv2d"
    if up not in (1, 2):
        raise ValueError(f"{op}: up has to be 1 or 2; got {up}")
    if not 0.0 <= slope <= 1.0:
        raise ValueError(f"{op}: slope has to be within [0, 1]; got {slope}")
    if not 0.0 < gain < math.inf:
        raise ValueError(f"{op}: gain has to be positive and finite; got {gain}")
    if clamp is not None and not clamp > 0.0:
        raise ValueError(f"{op}: clamp has to be None or positive; got {clamp}")
    check_image(op, "x", x, "[B,I,H,W]")
    batch, channels, height, width = x.shape
    if 0 in (channels, height, width):
        raise ValueError(f"{op}: x has to have at least one channel and pixel; got {list(x.shape)}")
    dtype, precise, device = x.dtype, precise_dtype(x), x.device
    check_tensor(op, "weight", weight, (None, channels, None, None), "[O,I,k,k]", dtype, device)
    outputs, _, taps, across = weight.shape
    if outputs == 0 or taps != across or not (taps == 3 or (taps == 1 and up == 1)):
        raise ValueError(f"{op}: weight has to have 3x3 taps, or 1x1 when up is 1; got {list(weight.shape)}")
    check_tensor(op, "styles", styles, (batch, channels), "[B,I]", precise, device)
    if q is not None:
        check_tensor(op, "q", q, (outputs, channels), "[O,I]", precise, device)
    if noise is not None:
        rows = 1 if noise.dim() == 4 and noise.shape[0] == 1 else batch
        check_tensor(op, "noise", noise, (rows, 1, height * up, width * up), "[1 or B,1,H*up,W*up]", dtype, device)
    if bias is not None:
        check_tensor(op, "bias", bias, (outputs,), "[O]", dtype, device)


def _smooth(y: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,C,H-1,W-1]: the FIR [1,3,3,1] x [1,3,3,1] of gain 4, the map bordered with one zero."""
    channels = y.shape[1]
    taps = y.new_tensor((0.25, 0.75, 0.75, 0.25))
    return F.conv2d(y, torch.outer(taps, taps).expand(channels, 1, 4, 4), padding=1, groups=channels)


def modulated_conv2d(
    x: Tensor,  # [B, I, H, W]
    weight: Tensor,  # [O, I, k, k]
    styles: Tensor,  # [B, I]
    *,
    q: Tensor | None = None,  # [O, I]
    noise: Tensor | None = None,  # [1 or B, 1, H*up, W*up]
    bias: Tensor | None = None,  # [O]
    up: int = 1,
    slope: float = 0.2,
    gain: float = SQRT2,
    clamp: float | None = None,
) -> Tensor:  # [B, O, H*up, W*up]
    """y = clamp(gain * lrelu(d * conv(x * s, W) + noise + b)), d = rsqrt(s^2 @ q^T + 1e-8), by the fused kernel.

    `q` is the sum of W^2 over the taps (None: no demodulation, d = 1) and `noise` comes already times its strength.
    With `up` 2 the convolution is the transposed one of stride 2, then the [1,3,3,1] low-pass filter, as published.
    `slope` 1.0 makes the activation linear; `clamp` bounds the result after the gain. `styles` and `q` are float32
    whatever the dtype of the rest (float64 beside float64). The result is channels last; x is taken in any layout,
    channels last being the fastest.

    Differentiable once, in `x` and `styles`. It gives no gradient to the weight, q, noise or bias: where one of them
    requires it, as in training, call `modulated_conv2d_reference`; with gradients enabled this function raises
    ValueError then. Raises ValueError or TypeError for arguments that do not fit together, BackendUnavailable where
    there is no kernel.
    """
    check_arguments(x, weight, styles, q, noise, bias, up, slope, gain, clamp)
    _library.require("modulated_conv2d", x)
    check_constants("modulated_conv2d", "x and styles", weight=weight, q=q, noise=noise, bias=bias)
    y: Tensor = _fused(x, weight, styles, q, noise, bias, up, slope, gain, clamp)
    return y


@_library.after_load
def _register() -> None:
    torch.library.register_fake("legato::modulated_conv2d", _fake)
    torch.library.register_fake("legato::modulated_conv2d_backward", _fake_backward)
    torch.library.register_autograd("legato::modulated_conv2d", _backward, setup_context=_save)
    torch.library.register_autograd("legato::modulated_conv2d_backward", _twice)


def _channels_last(like: Tensor, channels: int, up: int = 1) -> Tensor:
    batch, _, height, width = like.shape
    shape = (batch, channels, height * up, width * up)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _fake(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    q: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    up: int,
    slope: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    check_arguments(x, weight, styles, q, noise, bias, up, slope, gain, clamp)
    return _channels_last(x, weight.shape[0], up)


def _fake_backward(
    grad_y: Tensor, y: Tensor, x: Tensor, weight: Tensor, styles: Tensor, *rest: object
) -> tuple[Tensor, Tensor]:
    return _channels_last(x, x.shape[1]), styles.new_empty(styles.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.up, ctx.slope, ctx.gain, ctx.clamp = inputs
    ctx.save_for_backward(output, *tensors)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_styles = torch.ops.legato.modulated_conv2d_backward(
        grad_y, *ctx.saved_tensors, ctx.up, ctx.slope, ctx.gain, ctx.clamp
    )
    return grad_x, None, grad_styles, None, None, None, None, None, None, None


def _twice(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "modulated_conv2d is differentiable once; for a second derivative call modulated_conv2d_reference"
    )


_fused = eager("modulated_conv2d", _save, _backward)
