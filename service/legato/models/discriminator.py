"""StyleGAN2's residual discriminator (Karras et al. 2020, section 4.1, fig. 7), double differentiable for R1."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from legato.models.generator import GeneratorConfig
from legato.models.layers import EqualConv2d, EqualLinear

MINIBATCH_GROUP = 4
HALF_SQRT = math.sqrt(0.5)


class DiscriminatorBlock(nn.Module):
    """x [B, C, r, r] -> [B, C', r/2, r/2]: two 3x3 convolutions beside a 1x1 skip, halved variance each."""

    def __init__(self, c_in: int, c_out: int, from_rgb: bool, clamp: float | None = None) -> None:
        super().__init__()
        self.fromrgb = EqualConv2d(3, c_in, 1, activate=True, clamp=clamp) if from_rgb else None
        self.conv0 = EqualConv2d(c_in, c_in, 3, activate=True, clamp=clamp)
        self.conv1 = EqualConv2d(c_in, c_out, 3, activate=True, stride=2, gain=HALF_SQRT, clamp=clamp)
        self.skip = EqualConv2d(c_in, c_out, 1, bias=False, stride=2, gain=HALF_SQRT)

    def forward(self, x: Tensor) -> Tensor:
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        y: Tensor = self.skip(x) + self.conv1(self.conv0(x))
        return y


class DiscriminatorEpilogue(nn.Module):
    """x [B, C, 4, 4] -> score [B, 1], float32: minibatch deviation (Karras et al. 2018, section 3), dense layers."""

    def __init__(self, channels: int, clamp: float | None = None) -> None:
        super().__init__()
        self.conv = EqualConv2d(channels + 1, channels, 3, activate=True, clamp=clamp)
        self.fc = EqualLinear(channels * 16, channels, activate=True)
        self.out = EqualLinear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x, minibatch_deviation(x)), dim=1)
        score: Tensor = self.out(self.fc(self.conv(x).flatten(1)))
        return score


def minibatch_deviation(x: Tensor, group: int = MINIBATCH_GROUP) -> Tensor:
    """x [B, C, H, W] -> [B, 1, H, W]: deviation within groups of samples, averaged over channels and pixels.

    The group size is the largest up to `group` that divides the batch; samples b, b + B/size,
    b + 2 B/size, ... form one, as published.
    """
    batch, _, height, width = x.shape
    size = next(g for g in range(min(group, batch), 0, -1) if batch % g == 0)
    y = x.reshape(size, batch // size, *x.shape[1:])
    deviation = ((y - y.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # [B / size]
    return deviation.repeat(size).view(batch, 1, 1, 1).expand(batch, 1, height, width)


class Discriminator(nn.Module):
    """Image [B, 3, R, R] -> realness score [B, 1]; channels and clamp by the generator's rule.

    `autocast_dtype` is the dtype of the blocks above 4x4; forward(..., full_precision=True) ignores it, which R1 needs.
    """

    def __init__(self, config: GeneratorConfig, *, autocast_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = config  # of the generator that it was made for; of its mapping network nothing is used
        self.digest = ""  # sha256 of the weights, hex; set when loaded from a file
        self.resolution = config.resolution
        self.autocast_dtype = autocast_dtype
        self.resolutions = tuple(reversed(config.resolutions[1:]))
        for r in self.resolutions:
            first = r == self.resolution
            block = DiscriminatorBlock(config.channels(r), config.channels(r // 2), first, config.conv_clamp)
            self.add_module(f"b{r}", block)
        self.b4 = DiscriminatorEpilogue(config.channels(4), config.conv_clamp)

    def forward(self, image: Tensor, *, full_precision: bool = False) -> Tensor:
        if image.dim() != 4 or image.shape[1:] != (3, self.resolution, self.resolution):
            raise ValueError(f"image is [B, 3, {self.resolution}, {self.resolution}]; got {list(image.shape)}")
        wide = self.b4.out.weight.dtype
        dtype = wide if full_precision or self.autocast_dtype is None else self.autocast_dtype
        x = image.to(dtype, memory_format=torch.channels_last)
        for r in self.resolutions:
            x = self.get_submodule(f"b{r}")(x)
        score: Tensor = self.b4(x.to(wide))
        return score
