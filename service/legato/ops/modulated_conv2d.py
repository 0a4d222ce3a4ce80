"""StyleGAN2's modulated convolution with a weight that all samples share (Karras et al. 2020, section 2.2, eq. 1-3).

Scaling the weight by each sample's style and normalizing it, as published, is the same as scaling the input by the style and
the output by the demodulation factor. So no [B,O,I,k,k] tensor exists, and one dense convolution serves the whole batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.ops._check import check_floating, check_tensor

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
    y = x * styles[:, :, None, None]
    if up == 1:
        y = F.conv2d(y, weight, padding=weight.shape[2] // 2)
    else:
        y = _smooth(F.conv_transpose2d(y, weight.transpose(0, 1), stride=2))
    if q is not None:
        y = y * torch.rsqrt(styles.square() @ q.t() + EPSILON)[:, :, None, None]
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
    check_floating(op, "x", x)
    check_tensor(op, "x", x, (None, None, None, None), "[B,I,H,W]", x)
    batch, channels, height, width = x.shape
    check_tensor(op, "weight", weight, (None, channels, None, None), "[O,I,k,k]", x)
    outputs, _, taps, across = weight.shape
    if taps != across or taps not in ((1, 3) if up == 1 else (3,)):
        wanted = "1x1 or 3x3 taps" if up == 1 else "3x3 taps when up is 2"
        raise ValueError(f"{op}: weight has to have {wanted}; got {list(weight.shape)}")
    check_tensor(op, "styles", styles, (batch, channels), "[B,I]", x)
    if q is not None:
        check_tensor(op, "q", q, (outputs, channels), "[O,I]", x)
    if noise is not None:
        rows = 1 if noise.dim() == 4 and noise.shape[0] == 1 else batch
        check_tensor(op, "noise", noise, (rows, 1, height * up, width * up), "[1 or B,1,H*up,W*up]", x)
    if bias is not None:
        check_tensor(op, "bias", bias, (outputs,), "[O]", x)


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
    """y = clamp(gain * lrelu(d * conv(x * s, W) + noise + b)), d = rsqrt(s^2 @ q^T + 1e-8).

    `q` is the sum of W^2 over the taps ([O,I]; None: no demodulation, d = 1) and `noise` comes already times its strength.
    With `up` 2 the convolution is the transposed one of stride 2 followed by the [1,3,3,1] low-pass filter, as published.
    `slope` 1.0 makes the activation linear; `clamp` bounds the result after the gain.
    """
    return modulated_conv2d_reference(
        x, weight, styles, q=q, noise=noise, bias=bias, up=up, slope=slope, gain=gain, clamp=clamp
    )
