"""IR-SE-50: the residual network with squeeze and excitation that pSp and e4e look through.

Residual units of ArcFace (Deng et al. 2019, section 3.2.2, "improved residual": BN, conv, PReLU, conv, BN) with
squeeze and excitation at their end (Hu et al. 2018, reduction 16). Submodules are named as the public state dicts name
them. Batch normalization always uses the stored statistics: a training that goes on keeps them, as small batches want.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from legato.models.layers import Equalized

BN_EPS = 1e-5
REDUCTION = 16
UNITS = (3, 4, 14, 3)  # of the stages; each begins at half the resolution of the one before
TAPS = (6, 20, 23)  # units whose outputs are seen: 1/4, 1/8 and 1/16 of the input's side


class Convolution(Equalized):
    """k x k convolution, padding k // 2, in the dtype of what comes; weights as stored, without a factor."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        fan_in = c_in * kernel * kernel
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel) * math.sqrt(2.0 / fan_in))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if x.dtype != weight.dtype:
            if self.live:
                weight, bias = self._cast(x.dtype)
            else:
                sources = (weight,) if bias is None else (weight, bias)
                weight, bias = self._derived.get(x.dtype, sources, lambda: self._cast(x.dtype))
        return F.conv2d(x, weight, bias, stride=self.stride, padding=self.weight.shape[2] // 2)

    def _cast(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        weight = self.weight.to(dtype, memory_format=torch.channels_last)
        return weight, None if self.bias is None else self.bias.to(dtype)


class StoredNorm(nn.Module):
    """Batch normalization of x [B, C, H, W] by stored statistics."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=BN_EPS)


class Prelu(nn.Module):
    """x where positive, elsewhere weight[c] x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.weight.to(x.dtype))


class SqueezeExcitation(nn.Module):
    """x [B, C, H, W], each channel times a number in (0, 1) that all channels' means decide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = Convolution(channels, channels // REDUCTION, 1)
        self.fc2 = Convolution(channels // REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()
        return x * scale


class Unit(nn.Module):
    """x [B, C, r, r] -> [B, C', r/s, r/s]: the shortcut, every s-th pixel or a 1x1 convolution, plus the residual."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer = (
            None if c_in == c_out else nn.Sequential(Convolution(c_in, c_out, 1, stride=stride), StoredNorm(c_out))
        )
        self.res_layer = nn.Sequential(
            StoredNorm(c_in),
            Convolution(c_in, c_out, 3),
            Prelu(c_out),
            Convolution(c_out, c_out, 3, stride=stride),
            StoredNorm(c_out),
            SqueezeExcitation(c_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride] if self.shortcut_layer is None else self.shortcut_layer(x)
        y: Tensor = self.res_layer(x) + shortcut
        return y


class Backbone(nn.Module):
    """Image [B, 3, H, W] -> the three TAPS: [B, 2w, H/4, W/4], [B, 4w, H/8, W/8], [B, 8w, H/16, W/16]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(Convolution(3, width, 3), StoredNorm(width), Prelu(width))
        units: list[Unit] = []
        before = width
        for stage, count in enumerate(UNITS):
            after = width << stage
            units.append(Unit(before, after, 2))
            units += [Unit(after, after, 1) for _ in range(count - 1)]
            before = after
        self.body = nn.Sequential(*units)

    def features(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.input_layer(image)
        seen = []
        for number, unit in enumerate(self.body):
            x = unit(x)
            if number in TAPS:
                seen.append(x)
        fine, middle, coarse = seen
        return fine, middle, coarse
