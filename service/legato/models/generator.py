"""StyleGAN2 generator, skip architecture (Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN").

Parameters are named as in NVIDIA's public state dicts. Layer index of W+ (one block a resolution, ToRGB shares the
index of the next block's first convolution): b4: conv1 0, torgb 1; b8: conv0 1, conv1 2, torgb 3; b16: conv0 3, ...;
L = 2 log2(R) - 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from legato.models.affines import StyleAffines
from legato.models.layers import LRELU_GAIN, LRELU_SLOPE, Equalized, EqualLinear
from legato.models.mapping import Mapping
from legato.ops import modulated_conv2d, modulated_conv2d_reference, to_rgb, to_rgb_reference

# The maps [1 or B, 1, r, r] of all 3x3 convolutions in their order, before their strengths, may be given instead.
Noise = Literal["fixed", "random", "none"] | Sequence[Tensor]


MAX_RESOLUTION, MAX_MAPPING_LAYERS, MAX_SIZE = 4096, 64, 2**20  # a config may come from a damaged file


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    """Architecture. Channels at resolution r: min(channel_base // r, channel_max)."""

    resolution: int = 128  # pixels, a power of two >= 8
    z_dim: int = 256
    w_dim: int = 256
    mapping_layers: int = 8
    mapping_lr_multiplier: float = 0.01
    channel_base: int = 16384
    channel_max: int = 512
    conv_clamp: float | None = None

    def __post_init__(self) -> None:
        r = self.resolution
        sizes = (r, self.z_dim, self.w_dim, self.mapping_layers, self.channel_base, self.channel_max)
        if not all(type(size) is int for size in sizes):
            raise ValueError(f"sizes are whole numbers; got {self}")
        if r < 8 or r & (r - 1):
            raise ValueError(f"resolution is a power of two of at least 8; got {r}")
        if r > MAX_RESOLUTION or self.mapping_layers > MAX_MAPPING_LAYERS or max(sizes) > MAX_SIZE:
            raise ValueError(
                f"resolution is at most {MAX_RESOLUTION}, mapping_layers {MAX_MAPPING_LAYERS}, any size {MAX_SIZE}; "
                f"got {self}"
            )
        if not (0 < self.mapping_lr_multiplier < math.inf and 0 < (self.conv_clamp or 1.0) < math.inf):
            raise ValueError(f"mapping_lr_multiplier and conv_clamp are finite and above 0; got {self}")
        if self.channel_base < r or min(self.channel_max, self.z_dim, self.w_dim, self.mapping_layers) < 1:
            raise ValueError(f"channel_base is at least the resolution, the other sizes at least 1; got {self}")

    def channels(self, resolution: int) -> int:
        return min(self.channel_base // resolution, self.channel_max)

    @property
    def num_layers(self) -> int:
        return 2 * int(math.log2(self.resolution)) - 2

    @property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(2**k for k in range(2, int(math.log2(self.resolution)) + 1))


class Features(NamedTuple):
    """What head() hands to tail(): the features after a block and the running image."""

    x: Tensor  # [B, C, r, r], compute dtype
    rgb: Tensor  # [B, 3, r, r], float32, contiguous planes


class SynthesisLayer(Equalized):
    """Modulated 3x3 convolution with noise, bias and leaky ReLU; up = 2 doubles the resolution."""

    noise_const: Tensor

    def __init__(self, c_in: int, c_out: int, resolution: int, w_dim: int, up: int, clamp: float | None) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, c_in, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.resolution = resolution
        self.up = up
        self.clamp = clamp

    def forward(self, x: Tensor, styles: Tensor, noise: str | Tensor) -> Tensor:
        if self.live or (isinstance(noise, Tensor) and noise.requires_grad):  # the fused op has no gradient to it
            conv, (weight, q, bias) = modulated_conv2d_reference, self._constants(x.dtype)
        else:
            conv = modulated_conv2d
            weight, q, bias = self._derived.get(x.dtype, (self.weight, self.bias), lambda: self._constants(x.dtype))
        return conv(
            x,
            weight,
            styles,
            q=q,
            noise=self._noise(x, noise),
            bias=bias,
            up=self.up,
            slope=LRELU_SLOPE,
            gain=LRELU_GAIN,
            clamp=self.clamp,
        )

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        q = self.weight.square().sum(dim=(2, 3))  # [O, I], like the styles in full precision whatever the compute dtype
        return self.weight.to(dtype, memory_format=torch.channels_last), q, self.bias.to(dtype)

    def _noise(self, x: Tensor, noise: str | Tensor) -> Tensor | None:
        if isinstance(noise, Tensor):
            return (noise * self.noise_strength).to(x.dtype)
        if noise == "none":
            return None
        if noise == "random":
            drawn = torch.randn(x.shape[0], 1, self.resolution, self.resolution, device=x.device)
            return (drawn * self.noise_strength).to(x.dtype)
        if self.live:
            return self._fixed_noise(x.dtype)
        kept: Tensor | None = self._derived.get(
            ("noise", x.dtype), (self.noise_const, self.noise_strength), lambda: self._fixed_noise(x.dtype)
        )
        return kept

    def _fixed_noise(self, dtype: torch.dtype) -> Tensor:
        return (self.noise_const * self.noise_strength).to(dtype)[None, None]


class ToRGB(Equalized):
    """1x1 modulated convolution without demodulation to the three color channels, onto the upsampled running image."""

    def __init__(self, c_in: int, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        # The weight's 1/sqrt(fan_in) is folded into the style, as published.
        self.affine = EqualLinear(w_dim, c_in, bias_init=1.0, gain=1.0 / math.sqrt(c_in))
        self.weight = nn.Parameter(torch.randn(3, c_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.clamp = clamp

    def forward(self, x: Tensor, styles: Tensor, image: Tensor | None) -> Tensor:
        """x [B, C_in, r, r] and the running image [B, 3, r/2, r/2], None in the first block -> [B, 3, r, r]."""
        if self.live:
            project, (weight, bias) = to_rgb_reference, self._constants(x.dtype)
        else:
            project = to_rgb
            weight, bias = self._derived.get(x.dtype, (self.weight, self.bias), lambda: self._constants(x.dtype))
        return project(x, weight, styles, bias=bias, image=image, clamp=self.clamp)

    def _constants(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.weight.to(dtype), self.bias.to(dtype)


class SynthesisBlock(nn.Module):
    """All that happens at one resolution: (const |) conv0 up, conv1, ToRGB onto the upsampled running image."""

    def __init__(self, config: GeneratorConfig, resolution: int) -> None:
        super().__init__()
        c_out, w_dim, clamp = config.channels(resolution), config.w_dim, config.conv_clamp
        self.first = resolution == 4
        if self.first:
            self.const = nn.Parameter(torch.randn(c_out, 4, 4))
        else:
            self.conv0 = SynthesisLayer(config.channels(resolution // 2), c_out, resolution, w_dim, 2, clamp)
        self.conv1 = SynthesisLayer(c_out, c_out, resolution, w_dim, 1, clamp)
        self.torgb = ToRGB(c_out, w_dim, clamp)

    @property
    def layers(self) -> list[SynthesisLayer | ToRGB]:
        return [self.conv1, self.torgb] if self.first else [self.conv0, self.conv1, self.torgb]

    def forward(
        self, before: Features | None, styles: list[Tensor], noise: Sequence[str | Tensor], dtype: torch.dtype
    ) -> Features:
        """styles: this block's, in the order of `layers`; noise: of its one or two convolutions."""
        if before is None:
            x = self.const.to(dtype).expand(styles[0].shape[0], -1, -1, -1)
            x = x.contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(before.x, styles[0], noise[0])
        x = self.conv1(x, styles[-2], noise[-1])
        return Features(x, self.torgb(x, styles[-1], None if before is None else before.rgb))


class Synthesis(nn.Module):
    """The blocks b4, b8, ... and where each one's styles lie in the list of all styles."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.resolutions = config.resolutions
        for r in self.resolutions:
            self.add_module(f"b{r}", SynthesisBlock(config, r))

    def block(self, resolution: int) -> SynthesisBlock:
        block = self.get_submodule(f"b{resolution}")
        assert isinstance(block, SynthesisBlock)
        return block

    def affines(self) -> StyleAffines:
        """Of all layers; ToRGB reads the latent of the next block's first convolution."""
        affines: list[EqualLinear] = []
        indices: list[int] = []
        first = 0
        for r in self.resolutions:
            layers = self.block(r).layers
            affines += [layer.affine for layer in layers]
            indices += range(first, first + len(layers))
            first += len(layers) - 1
        return StyleAffines(affines, indices)

    @staticmethod
    def span(resolution: int) -> slice:
        """Indices of a block's styles: b4 has two, every other block three."""
        first = 3 * (int(math.log2(resolution)) - 2) - 1
        return slice(max(first, 0), first + 3)


class Generator(nn.Module):
    """StyleGAN2: map -> styles -> synthesize, each addressable.

    In training mode, or where gradients to the weights can be asked for, the plain-torch reference runs on the live
    weights; otherwise the fused ops run on constants that were derived from them once. `autocast_dtype`
    (torch.bfloat16) is the dtype inside the convolutions; the image is summed in float32.
    """

    def __init__(self, config: GeneratorConfig, *, autocast_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = config
        self.autocast_dtype = autocast_dtype
        self.digest = ""  # sha256 of the weights, hex; set when loaded from a file
        self.mapping = Mapping(config.z_dim, config.w_dim, config.mapping_layers, config.mapping_lr_multiplier)
        self.synthesis = Synthesis(config)
        self._affines = self.synthesis.affines()

    @property
    def num_layers(self) -> int:
        return self.config.num_layers

    @property
    def w_avg(self) -> Tensor:
        return self.mapping.w_avg

    def map(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """z [B, Z] -> latents [B, L, D], one w for all layers: w_avg + truncation * (w - w_avg)."""
        if z.dim() != 2 or z.shape[1] != self.config.z_dim:
            raise ValueError(f"z is [B, {self.config.z_dim}]; got {list(z.shape)}")
        w: Tensor = self.mapping(z)
        if truncation != 1.0:
            w = self.w_avg.lerp(w, truncation)
        return w[:, None].repeat(1, self.num_layers, 1)

    def styles(self, latents: Tensor) -> list[Tensor]:
        """latents [B, L, D] -> one [B, C_in] for each modulated convolution and ToRGB, in the order of synthesis."""
        if latents.dim() != 3 or latents.shape[1:] != (self.num_layers, self.config.w_dim):
            raise ValueError(f"latents are [B, {self.num_layers}, {self.config.w_dim}]; got {list(latents.shape)}")
        return self._affines(latents)

    def synthesize(self, styles: list[Tensor], noise: Noise = "fixed", *, max_resolution: int | None = None) -> Tensor:
        """styles -> image [B, 3, R, R], about [-1, 1], not clamped; at `max_resolution` stops, the running image."""
        return self._run(None, styles, noise, 4, max_resolution or self.config.resolution).rgb

    def head(self, styles: list[Tensor], resolution: int, noise: Noise = "fixed") -> Features:
        """The blocks up to and with `resolution`."""
        return self._run(None, styles, noise, 4, resolution)

    def tail(self, features: Features, styles: list[Tensor], resolution: int, noise: Noise = "fixed") -> Tensor:
        """The blocks after `resolution`, on what head() gave there -> image [B, 3, R, R]."""
        return self._run(features, styles, noise, 2 * resolution, self.config.resolution).rgb

    def forward(self, latents: Tensor, noise: Noise = "fixed", *, max_resolution: int | None = None) -> Tensor:
        """latents [B, L, D] -> image [B, 3, R, R]."""
        return self.synthesize(self.styles(latents), noise, max_resolution=max_resolution)

    def _run(self, features: Features | None, styles: list[Tensor], noise: Noise, first: int, last: int) -> Features:
        resolutions = self.synthesis.resolutions
        if last not in resolutions:
            raise ValueError(f"a block of this generator is one of {list(resolutions)} pixels; got {last}")
        maps = [noise] * (self.num_layers - 1) if isinstance(noise, str) else noise
        if len(maps) != self.num_layers - 1:
            raise ValueError(f"noise is given as {self.num_layers - 1} maps, one a convolution; got {len(maps)}")
        dtype = self.autocast_dtype or self.synthesis.block(4).const.dtype
        for k, r in enumerate(resolutions):
            if first <= r <= last:
                block = self.synthesis.block(r)
                features = block(features, styles[self.synthesis.span(r)], maps[max(2 * k - 1, 0) : 2 * k + 1], dtype)
        assert features is not None
        return features
