"""Layers with an equalized learning rate (Karras et al. 2018, section 4.1) and the resampling filter of StyleGAN2.

Weights are stored as N(0, 1) / lr_multiplier and multiplied at run time by lr_multiplier / sqrt(fan_in), so that Adam moves
every layer at the same relative speed. For inference the multiplied weights are kept, in the dtype they were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LRELU_SLOPE = 0.2
LRELU_GAIN = math.sqrt(2.0)


def lrelu(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.2 times sqrt(2), which keeps the variance of a unit-normal input near one."""
    return F.leaky_relu(x, LRELU_SLOPE) * LRELU_GAIN


def normalize_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x [B, D] / sqrt(mean over D of x^2)."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


def blur(x: Tensor, padding: int) -> Tensor:
    """x [B, C, H, W] filtered with the outer product of [1, 3, 3, 1] / 8, zero padding on every side.

    Output side: H + 2 * padding - 3. The filter is [1, 1] / 2 three times over: averages of shifted views.
    """
    x = F.pad(x, (padding,) * 4)
    return _binomial4(_binomial4(x, 3), 2)


def _binomial4(x: Tensor, dim: int) -> Tensor:
    n = x.shape[dim] - 3
    ends = x.narrow(dim, 0, n) + x.narrow(dim, 3, n)
    middle = x.narrow(dim, 1, n) + x.narrow(dim, 2, n)
    return torch.add(ends, middle, alpha=3.0) * 0.125


def fir_down(x: Tensor) -> Tensor:
    """x [B, C, H, W] -> [B, C, H/2, W/2]: the [1, 3, 3, 1] filter with zero padding 1, then every second sample."""
    x = F.pad(x, (1, 1, 1, 1))
    return _binomial4_down(_binomial4_down(x, 2), 3)


def _binomial4_down(x: Tensor, dim: int) -> Tensor:
    n = (x.shape[dim] - 2) // 2
    taps = [_every_second(x.narrow(dim, k, 2 * n), dim) for k in range(3)]
    last = _every_second(x.narrow(dim, 3, 2 * n - 1), dim)
    return torch.add(taps[0] + last, taps[1] + taps[2], alpha=3.0) * 0.125


def _every_second(x: Tensor, dim: int) -> Tensor:
    return x[:, :, ::2] if dim == 2 else x[:, :, :, ::2]


class Derived:
    """Tensors derived from parameters, rebuilt when a parameter is replaced or written to."""

    def __init__(self) -> None:
        self._entries: dict[Any, tuple[tuple[tuple[Tensor, int, int], ...], Any]] = {}

    def get(self, key: Any, sources: tuple[Tensor, ...], build: Callable[[], Any]) -> Any:
        """The result of build() for `key`, made anew unless every source is the same tensor, unwritten since."""
        entry = self._entries.get(key)
        if entry is not None and all(
            then is now and pointer == now.data_ptr() and version == _version(now)
            for (then, pointer, version), now in zip(entry[0], sources, strict=True)
        ):
            return entry[1]
        # Not under inference_mode: a kept tensor must be usable later in a graph that differentiates the latents.
        with torch.inference_mode(False), torch.no_grad():
            value = build()
        self._entries[key] = (tuple((s, s.data_ptr(), _version(s)) for s in sources), value)
        return value

    def clear(self) -> None:
        self._entries.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Derived:
        return Derived()

    def __getstate__(self) -> dict[str, Any]:
        return {"_entries": {}}


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


class Equalized(nn.Module):
    """Base of the layers that multiply their weight at run time."""

    weight: nn.Parameter

    def __init__(self) -> None:
        super().__init__()
        self._derived = Derived()

    @property
    def live(self) -> bool:
        """Whether gradients to the weights may be asked for, so that nothing derived from them may be kept."""
        return self.training or (torch.is_grad_enabled() and self.weight.requires_grad)

    def train(self, mode: bool = True) -> Equalized:
        self._derived.clear()
        return super().train(mode)


class EqualLinear(Equalized):
    """y [B, O] = x [B, I] @ (gain * weight).T + lr_multiplier * bias, gain = lr_multiplier / sqrt(I)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        if self.live:
            weight, bias = self._scaled(x.dtype)
        else:
            weight, bias = self._derived.get(x.dtype, (self.weight, self.bias), lambda: self._scaled(x.dtype))
        y = F.linear(x, weight, bias)
        return lrelu(y) if self.activate else y

    def _scaled(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return (self.weight * self.weight_gain).to(dtype), (self.bias * self.bias_gain).to(dtype)


class EqualConv2d(Equalized):
    """k x k convolution, padding k // 2, of x [B, I, H, W]; `down` = 2 filters with [1, 3, 3, 1] first, as published.

    `plain_stride` leaves the filter out (used where aliasing does no harm and time counts: the encoder).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        bias: bool = True,
        activate: bool = False,
        down: int = 1,
        plain_stride: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel * kernel)
        self.activate = activate
        self.down = down
        self.plain_stride = plain_stride
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        if self.live:
            weight, bias = self._scaled(x.dtype)
        else:
            sources = (self.weight,) if self.bias is None else (self.weight, self.bias)
            weight, bias = self._derived.get(x.dtype, sources, lambda: self._scaled(x.dtype))
        if self.down == 1 or self.plain_stride:
            y = F.conv2d(x, weight, bias, stride=self.down, padding=self.kernel // 2)
        elif self.kernel == 1:
            y = F.conv2d(fir_down(x), weight, bias)
        else:
            y = F.conv2d(blur(x, 1 + self.kernel // 2), weight, bias, stride=self.down)
        return lrelu(y) if self.activate else y

    def _scaled(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        weight = (self.weight * self.weight_gain).to(dtype, memory_format=torch.channels_last)
        return weight, None if self.bias is None else self.bias.to(dtype)
