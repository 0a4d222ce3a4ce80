"""The encoders of pixel2style2pixel and encoder4editing: IR-SE-50, a feature pyramid, one head for each layer of W+.

pSp (Richardson et al. 2021, figure 2): every head gives its layer's code. e4e (Tov et al. 2021, section 4): the first
head gives one code for all layers, the others what each layer adds to it. Both see 256 pixels and add the generator's
mean latent. Their state dicts have the same names and shapes, which are kept here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from legato.models.encoder import ImageEncoder
from legato.models.encoders.backbone import Backbone, Convolution
from legato.models.layers import EqualLinear

Design = Literal["psp", "e4e"]
SIDE = 256  # pixels that the backbone sees
MIDDLE_FROM, FINE_FROM = 3, 7  # layers from which on the heads see the finer levels
MOST_LAYERS, MOST_W_DIM = 32, 2048  # a config may come from a damaged file
HEAD_SLOPE = 0.01  # of leaky ReLU


@dataclass(frozen=True, slots=True)
class StyleEncoderConfig:
    """Architecture. Sizes are the generator's; published codes have w_dim 512, and the backbone w_dim / 8 channels.

    With `wide` the upper and the lower eighth of the image are left out, as for cars: 256 x 192 pixels are seen.
    """

    resolution: int
    num_layers: int
    w_dim: int = 512
    design: Design = "psp"
    wide: bool = False

    def __post_init__(self) -> None:
        r = self.resolution
        if r < 8 or r & (r - 1) or not 1 <= self.num_layers <= MOST_LAYERS:
            raise ValueError(f"resolution is a power of two from 8 on, num_layers 1 to {MOST_LAYERS}; got {self}")
        if self.w_dim not in range(128, MOST_W_DIM + 1, 128):
            raise ValueError(f"w_dim is a multiple of 128 of at most {MOST_W_DIM}; got {self.w_dim}")
        if self.design not in ("psp", "e4e"):
            raise ValueError(f"design is psp or e4e; got {self.design!r}")


class StyleHead(nn.Module):
    """Features [B, D, r, r] -> code [B, D] float32: log2(r) convolutions of stride 2, and a linear layer."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(int(math.log2(side))):
            layers += [Convolution(dim, dim, 3, stride=2, bias=True), nn.LeakyReLU(HEAD_SLOPE)]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        code: Tensor = self.linear(self.convs(x).flatten(1).to(self.linear.weight.dtype))
        return code


class StyleEncoder(Backbone, ImageEncoder):
    """Image [B, 3, R, R] in [-1, 1] -> latents [B, L, D] float32: pSp's or e4e's codes plus `latent_avg`.

    `autocast_dtype` is the dtype inside the convolutions; linear layers and sums of codes are float32.
    """

    config: StyleEncoderConfig
    latent_avg: Tensor  # [L, D]; zero for an encoder that was trained to give whole codes

    def __init__(self, config: StyleEncoderConfig, *, autocast_dtype: torch.dtype | None = None) -> None:
        dim = config.w_dim
        super().__init__(dim // 8)
        self.config = config
        self.autocast_dtype = autocast_dtype
        self.digest = ""
        self.levels = [(i >= MIDDLE_FROM) + (i >= FINE_FROM) for i in range(config.num_layers)]
        self.styles = nn.ModuleList(StyleHead(dim, SIDE // 16 << level) for level in self.levels)
        self.latlayer1 = Convolution(dim // 2, dim, 1, bias=True)
        self.latlayer2 = Convolution(dim // 4, dim, 1, bias=True)
        self.register_buffer("latent_avg", torch.zeros(config.num_layers, dim))

    @property
    def w_avg(self) -> Tensor:  # type: ignore[override]  # derived here, a buffer elsewhere
        """[D], where its codes lie around."""
        return self.latent_avg.mean(0)

    def forward(self, image: Tensor) -> Tensor:
        self.check(image)
        x = self.seen(image).to(self.autocast_dtype or self.latlayer1.weight.dtype)
        fine, middle, coarse = self.features(x.contiguous(memory_format=torch.channels_last))
        middle = _upsampled(coarse, middle.shape) + self.latlayer1(middle)
        fine = _upsampled(middle, fine.shape) + self.latlayer2(fine)
        levels = (coarse, middle, fine)
        codes = torch.stack([head(levels[k]) for head, k in zip(self.styles, self.levels, strict=True)], 1)
        if self.config.design == "e4e":
            codes = torch.cat([codes[:, :1], codes[:, :1] + codes[:, 1:]], 1)
        return codes + self.latent_avg

    def seen(self, image: Tensor) -> Tensor:
        """What the backbone looks at, [B, 3, 256, 256] or [B, 3, 192, 256]: filtered, then sampled between pixels."""
        height = SIDE
        if self.config.wide:
            eighth = image.shape[2] // 8
            image, height = image[:, :, eighth : image.shape[2] - eighth], SIDE * 3 // 4
        if image.shape[2:] == (height, SIDE):
            return image
        return F.interpolate(
            image, (height, SIDE), mode="bilinear", align_corners=False, antialias=image.shape[3] > SIDE
        )


def _upsampled(x: Tensor, shape: torch.Size) -> Tensor:
    return F.interpolate(x, shape[2:], mode="bilinear", align_corners=True)
