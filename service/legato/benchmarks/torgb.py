"""Formulations of the ToRGB step in plain torch, to be raced against the fused op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.benchmarks.layers import Layer
from legato.ops import to_rgb_reference, upsample2d


@dataclass(frozen=True, slots=True)
class ToRGBInputs:
    """As the generator hands them to the op."""

    x: Tensor  # [B, I, R, R] T, channels last
    weight: Tensor  # [3, I, 1, 1] T
    styles: Tensor  # [B, I] float32
    bias: Tensor  # [3] T
    image: Tensor | None  # [B, 3, R/2, R/2] float32, the running image; None at 4 px

    @classmethod
    def random(cls, layer: Layer, batch: int, dtype: torch.dtype, device: torch.device, seed: int) -> ToRGBInputs:
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random)

        half = layer.size // 2
        x = normal(batch, layer.c_in, layer.size, layer.size)
        return cls(
            x=x.to(device, dtype, memory_format=torch.channels_last),
            weight=normal(3, layer.c_in, 1, 1).to(device, dtype, memory_format=torch.channels_last),
            styles=((1.0 + 0.5 * normal(batch, layer.c_in)) / layer.c_in**0.5).to(device),
            bias=normal(3).to(device, dtype),
            image=normal(batch, 3, half, half).to(device) if layer.size > 4 else None,
        )


def formulations() -> dict[str, Callable[..., Tensor]]:
    """By name, each called with x, weight, styles, bias and image."""
    return {"reference": _reference, "matrix product": _product}


def _reference(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor, image: Tensor | None) -> Tensor:
    return to_rgb_reference(x, weight, styles, bias=bias, image=image)


def _product(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor, image: Tensor | None) -> Tensor:
    """The styles in a weight of each sample, which is small: x is read once, and no scaled copy of it is written."""
    batch, channels, height, width = x.shape
    weights = (weight.view(3, channels) * styles[:, None]).to(x.dtype)  # [B, 3, I]
    pixels = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    y = torch.baddbmm(bias, pixels, weights.transpose(1, 2)).float()
    rgb = y.transpose(1, 2).reshape(batch, 3, height, width)
    return rgb if image is None else upsample2d(image) + rgb
