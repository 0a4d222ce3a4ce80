"""Layers with an equalized learning rate (Karras et al. 2018, section 4.1) and the resampling filter of StyleGAN2.

Weights are stored as N(0, 1) / lr_multiplier and multiplied at run time by lr_multiplier / sqrt(fan_in), so that Adam
moves every layer at the same relative speed. For inference the multiplied weights are kept, in the dtype asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LRELU_SLOPE = 0.2
LRELU_GAIN = math.sqrt(2.0)  # keeps the second moment; lrelu is homogeneous, so the layers fold it into weight and bias


def normalize_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x [B, D] / sqrt(mean over D of x^2)."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


class _Blur(torch.autograd.Function):
    """Depthwise filter whose derivative is itself: torch's own second derivative of a depthwise convolution goes
    channel by channel, which makes R1 ten times slower."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: int) -> Tensor:
        ctx.padding = padding
        channels = x.shape[1]
        taps = torch.tensor((0.125, 0.375, 0.375, 0.125), dtype=x.dtype, device=x.device)
        return F.conv2d(x, torch.outer(taps, taps).expand(channels, 1, 4, 4), padding=padding, groups=channels)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return blur(grads[0], 3 - ctx.padding), None


def blur(x: Tensor, padding: int) -> Tensor:
    """x [B, C, H, W] filtered with the outer product of [1, 3, 3, 1] / 8; zero padding, 0 to 3, on every side.

    Output side: H + 2 * padding - 3. Differentiable any number of times.
    """
    y: Tensor = _Blur.apply(x, padding)  # type: ignore[no-untyped-call]
    return y


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
        if mode:  # only then: captured graphs read what is kept for inference
            self._derived.clear()
        return super().train(mode)


class EqualLinear(Equalized):
    """y [B, O] = gain * lr_multiplier * (x [B, I] @ W.T / sqrt(I) + bias); then lrelu or not."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
        activate: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init)))
        self.activate = activate
        self.bias_gain = gain * lr_multiplier * (LRELU_GAIN if activate else 1.0)
        self.weight_gain = self.bias_gain / math.sqrt(in_features)

    def forward(self, x: Tensor) -> Tensor:
        if self.live:
            weight, bias = self.scaled(x.dtype)
        else:
            weight, bias = self._derived.get(x.dtype, (self.weight, self.bias), lambda: self.scaled(x.dtype))
        y = F.linear(x, weight, bias)
        return F.leaky_relu(y, LRELU_SLOPE) if self.activate else y

    def scaled(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight [O, I] and bias [O] as they are applied."""
        return (self.weight * self.weight_gain).to(dtype), (self.bias * self.bias_gain).to(dtype)


class EqualConv2d(Equalized):
    """k x k convolution, padding k // 2, of x [B, I, H, W]; `stride` 2 filters with [1, 3, 3, 1] first, as published.

    `filtered` = False leaves the filter out (where aliasing does no harm and time counts: the encoder). `gain`
    multiplies the output; `clamp`, before that, bounds it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        bias: bool = True,
        activate: bool = False,
        stride: int = 1,
        filtered: bool = True,
        gain: float = 1.0,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.activate = activate
        self.bias_gain = gain * (LRELU_GAIN if activate else 1.0)
        self.weight_gain = self.bias_gain / math.sqrt(in_channels * kernel * kernel)
        self.stride = stride
        self.filtered = filtered and stride > 1
        self.padding = kernel // 2
        self.bound = None if clamp is None else clamp * gain

    def forward(self, x: Tensor) -> Tensor:
        if self.live:
            weight, bias = self._scaled(x.dtype)
        else:
            sources = (self.weight,) if self.bias is None else (self.weight, self.bias)
            weight, bias = self._derived.get(x.dtype, sources, lambda: self._scaled(x.dtype))
        if self.filtered:
            y = F.conv2d(blur(x, 1 + self.padding), weight, bias, stride=self.stride)
        else:
            y = F.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)
        y = F.leaky_relu(y, LRELU_SLOPE) if self.activate else y
        return y if self.bound is None else y.clamp(-self.bound, self.bound)

    def _scaled(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        weight = (self.weight * self.weight_gain).to(dtype, memory_format=torch.channels_last)
        return weight, None if self.bias is None else (self.bias * self.bias_gain).to(dtype)
