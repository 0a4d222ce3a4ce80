"""Encoder of an image into W+: a feature pyramid, and offsets from the generator's mean latent.

After pixel2style2pixel (Richardson et al. 2021: coarse, middle and fine layers from three pyramid levels) and e4e (Tov
et al. 2021: one latent for all layers plus per-layer offsets that start at zero, which keeps the codes near W). Small
grids are flattened instead of pooled away: where the eyes and the mouth are matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from legato.models.layers import EqualConv2d, EqualLinear

HALF_SQRT = math.sqrt(0.5)
COARSE_UP_TO = 8  # block resolution of the last layers that the coarse head moves
MIDDLE_UP_TO = 32
FINE = 32  # side of the finest level that the pyramid reads; the stem gives no less
GRID = 8  # side of the flattened grids of the middle and the fine level


class Sizes(Protocol):
    """What every encoder's config tells: those of the generator that it belongs to."""

    @property
    def resolution(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def w_dim(self) -> int: ...


class ImageEncoder(nn.Module):
    """Base of the encoders: an image [B, 3, R, R] in [-1, 1] gives [B, L, D] float32, sizes as in `config`.

    One that works at another resolution resizes the image itself. `autocast_dtype` is the dtype inside its
    convolutions, `digest` the sha256 of its weights, hex, once it was loaded from a file.
    """

    config: Sizes
    autocast_dtype: torch.dtype | None
    digest: str
    w_avg: Tensor  # [D], where its codes lie around

    def check(self, image: Tensor, what: str = "image") -> None:
        """Raises ValueError unless it is [B, 3, R, R]."""
        r = self.config.resolution
        if image.dim() != 4 or image.shape[1:] != (3, r, r):
            raise ValueError(f"{what} is [B, 3, {r}, {r}]; got {list(image.shape)}")


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Architecture. Channels at resolution r: min(channel_base // r, channel_max).

    The stem is at half resolution; of 32 pixels at the whole one.
    """

    resolution: int = 128  # pixels, a power of two >= 32
    num_layers: int = 12  # L of the generator
    w_dim: int = 256  # D of the generator
    channel_base: int = 2048
    channel_max: int = 192
    pyramid_channels: int = 96

    def __post_init__(self) -> None:
        r = self.resolution
        if r < FINE or r & (r - 1):
            raise ValueError(f"resolution is a power of two of at least {FINE}; got {r}")
        if self.channel_base < r or min(self.channel_max, self.num_layers, self.w_dim) < 1 or self.pyramid_channels < 4:
            raise ValueError(
                f"channel_base is at least the resolution, pyramid_channels 4, the other sizes 1; got {self}"
            )

    def channels(self, resolution: int) -> int:
        return min(self.channel_base // resolution, self.channel_max)


class EncoderStage(nn.Module):
    """x [B, C, r, r] -> [B, C', r/2, r/2]: 3x3, then 3x3 of stride 2, beside an average-pooled 1x1 skip."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv0 = EqualConv2d(c_in, c_in, 3, activate=True)
        self.conv1 = EqualConv2d(c_in, c_out, 3, activate=True, stride=2, filtered=False, gain=HALF_SQRT)
        self.skip = EqualConv2d(c_in, c_out, 1, bias=False, gain=HALF_SQRT)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(self.conv0(x)) + self.skip(F.avg_pool2d(x, 2))
        return y


class PyramidEncoder(ImageEncoder):
    """Base: `images` stacked images [B, 3 images, R, R] -> offsets [B, L, D], one shared by the layers + one per layer.

    `autocast_dtype` (torch.bfloat16) is the dtype inside the convolutions; the heads are float32.
    """

    config: EncoderConfig

    def __init__(self, config: EncoderConfig, *, images: int, autocast_dtype: torch.dtype | None) -> None:
        super().__init__()
        self.config = config
        self.autocast_dtype = autocast_dtype
        self.digest = ""
        channels, pyramid, dim = config.channels, config.pyramid_channels, config.w_dim
        self.register_buffer("w_avg", torch.zeros(dim))

        top = max(config.resolution // 2, FINE)
        self.folded = config.resolution // top
        self.stem = EqualConv2d(3 * self.folded**2 * images, channels(top), 3, activate=True)
        self.resolutions = tuple(top >> k for k in range(int(math.log2(top)) - 2))  # of the stages' inputs, down to 8
        for r in self.resolutions:
            self.add_module(f"stage{r}", EncoderStage(channels(r), channels(r // 2)))

        grid, reduced = GRID * GRID, pyramid // 3
        self.lateral4 = EqualConv2d(channels(4), pyramid, 1)
        self.lateral8 = EqualConv2d(channels(8), pyramid, 1)
        self.lateral16 = EqualConv2d(channels(16), pyramid, 1)
        self.lateral32 = EqualConv2d(channels(32), pyramid, 1)
        self.coarse = EqualLinear(channels(4) * 16, dim, activate=True)
        self.middle_conv = EqualConv2d(pyramid, reduced, 3, activate=True, stride=2, filtered=False)
        self.middle = EqualLinear(reduced * grid, dim, activate=True)
        self.fine_conv = EqualConv2d(pyramid, pyramid // 2, 3, activate=True, stride=2, filtered=False)
        self.fine_reduce = EqualConv2d(pyramid // 2, reduced, 3, activate=True, stride=2, filtered=False)
        self.fine = EqualLinear(reduced * grid, dim, activate=True)
        self.coarse_to_middle = EqualLinear(dim, dim)
        self.middle_to_fine = EqualLinear(dim, dim)

        self.shared = EqualLinear(dim, dim)
        self.offset_weight = nn.Parameter(torch.zeros(config.num_layers, dim, dim))  # [L, hidden, D]
        self.offset_bias = nn.Parameter(torch.zeros(config.num_layers, dim))
        self.offset_gain = 1.0 / math.sqrt(dim)
        level = [self._level(layer) for layer in range(config.num_layers)]
        self.counts = [level.count(k) for k in range(3)]

    @staticmethod
    def _level(layer: int) -> int:
        resolution = 2 ** (2 + (layer + 1) // 2)
        return 0 if resolution <= COARSE_UP_TO else 1 if resolution <= MIDDLE_UP_TO else 2

    def hidden(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three levels' features, each [B, hidden]; a finer level builds on the one above."""
        wide = self.shared.weight.dtype
        dtype = self.autocast_dtype or wide
        # Half the resolution at four times the channels: the stem sees every pixel and costs a quarter.
        x = F.pixel_unshuffle(images.to(dtype), self.folded).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        at: dict[int, Tensor] = {}
        for r in self.resolutions:
            at[r] = x
            x = self.get_submodule(f"stage{r}")(x)
        p8 = self.lateral8(at[8]) + _double(self.lateral4(x))
        p16 = self.lateral16(at[16]) + _double(p8)
        p32 = self.lateral32(at[32]) + _double(p16)
        coarse: Tensor = self.coarse(x.flatten(1).to(wide))
        middle: Tensor = self.middle(self.middle_conv(p16).flatten(1).to(wide))
        fine: Tensor = self.fine(self.fine_reduce(self.fine_conv(p32)).flatten(1).to(wide))
        middle = (middle + self.coarse_to_middle(coarse)) * HALF_SQRT
        fine = (fine + self.middle_to_fine(middle)) * HALF_SQRT
        return coarse, middle, fine

    def offsets(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        """What the three levels move the layers by: [B, L, D]."""
        levels = zip((coarse, middle, fine), self.counts, strict=True)
        hidden = torch.cat([h.expand(n, *h.shape) for h, n in levels])  # [L, B, hidden]
        offsets = torch.bmm(hidden * self.offset_gain, self.offset_weight) + self.offset_bias[:, None]
        moved: Tensor = self.shared(coarse)[:, None] + offsets.transpose(0, 1)
        return moved


class Encoder(PyramidEncoder):
    """Image [B, 3, R, R] in [-1, 1] -> latents [B, L, D] float32: w_avg + one shared offset + one per layer."""

    def __init__(self, config: EncoderConfig, *, autocast_dtype: torch.dtype | None = None) -> None:
        super().__init__(config, images=1, autocast_dtype=autocast_dtype)

    def forward(self, image: Tensor) -> Tensor:
        self.check(image)
        latents: Tensor = self.w_avg + self.offsets(*self.hidden(image))
        return latents


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
