"""Formulations of one modulated convolution layer in plain torch, to be raced against the fused op.

Two families. *Shared weights*: the input scaled by the style, one convolution for the batch, the output scaled by the
demodulation; all that does not depend on x and styles (noise plus bias, the filter folded into the weight) is computed
once, outside of what is timed. *Grouped*: a weight for each sample and a convolution of as many groups as samples, as
public implementations do it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.benchmarks.layers import Layer
from legato.models.layers import LRELU_GAIN, LRELU_SLOPE
from legato.ops import modulated_conv2d, modulated_conv2d_reference

EPSILON = 1e-8
TAPS = (0.25, 0.75, 0.75, 0.25)  # [1,3,3,1] of gain 2 along each axis
Formulation = tuple[Callable[..., Tensor], tuple[Tensor, ...]]  # called with x, styles and these constants


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """x and styles of one layer, and its constants, as the generator hands them to the op."""

    x: Tensor  # [B, I, h, h] T, channels last
    styles: Tensor  # [B, I] float32
    weight: Tensor  # [O, I, 3, 3] T, channels last
    q: Tensor  # [O, I] float32
    noise: Tensor  # [1, 1, H, H] T
    bias: Tensor  # [O] T
    up: int

    @classmethod
    def random(cls, layer: Layer, batch: int, dtype: torch.dtype, device: torch.device, seed: int) -> LayerInputs:
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random)

        side = layer.size // layer.up
        weight = normal(layer.c_out, layer.c_in, 3, 3).to(device, dtype, memory_format=torch.channels_last)
        return cls(
            x=normal(batch, layer.c_in, side, side).to(device, dtype, memory_format=torch.channels_last),
            styles=(1.0 + 0.5 * normal(batch, layer.c_in)).to(device),
            weight=weight,
            q=weight.float().square().sum((2, 3)),
            noise=(0.1 * normal(1, 1, layer.size, layer.size)).to(device, dtype),
            bias=normal(layer.c_out).to(device, dtype),
            up=layer.up,
        )


def fused(inputs: LayerInputs) -> Formulation:
    """The op of legato."""

    def op(x: Tensor, styles: Tensor, *constants: Tensor) -> Tensor:
        weight, q, noise, bias = constants
        return modulated_conv2d(
            x, weight, styles, q=q, noise=noise, bias=bias, up=inputs.up, slope=LRELU_SLOPE, gain=LRELU_GAIN
        )

    return op, (inputs.weight, inputs.q, inputs.noise, inputs.bias)


def shared_weights(inputs: LayerInputs) -> dict[str, Formulation]:
    """The plain formulations with shared weights: which one is the fastest depends on the layer."""
    up, batch, weight, dtype = inputs.up, inputs.x.shape[0], inputs.weight, inputs.x.dtype
    added = (LRELU_GAIN * (inputs.noise.float() + inputs.bias.float()[:, None, None])).to(dtype)
    added = added.contiguous(memory_format=torch.channels_last)
    found: dict[str, Formulation] = {
        "reference": (_reference(up), (weight, inputs.q, inputs.noise, inputs.bias)),
    }
    if up == 1:
        found["scaled"] = (_scaled, (weight, inputs.q, added))
        if batch == 1:
            found["one sample's weight"] = (_one_weight, (weight, inputs.q, added))
        return found
    transposed, fir = (
        weight.transpose(0, 1).contiguous(memory_format=torch.channels_last),
        _filter(weight.shape[0], weight),
    )
    found["scaled"] = (_scaled_up, (transposed, fir, inputs.q, added))
    found["folded filter"] = (_folded, (fold_filter(weight), inputs.q, added))
    if batch == 1:
        found["one sample's weight"] = (_one_weight_up, (weight, fir, inputs.q, added))
    return found


def grouped(inputs: LayerInputs, dtype: torch.dtype) -> tuple[Formulation, Tensor]:
    """(formulation with a weight for each sample in `dtype`, its x: contiguous as its reshapes want it)."""
    weight, noise, bias = inputs.weight.float().contiguous(), inputs.noise.to(dtype), inputs.bias.to(dtype)
    fir = _filter(inputs.x.shape[0] * weight.shape[0], noise)
    function = _grouped if inputs.up == 1 else _grouped_up
    return (function, (weight, noise, bias, fir)), inputs.x.to(
        dtype, memory_format=torch.contiguous_format
    ).contiguous()


def fold_filter(weight: Tensor) -> Tensor:
    """[O,I,3,3] -> [4*O,I,3,3]: transposed convolution of stride 2 and [1,3,3,1] filter as one plain convolution of
    the input, for the four phases of the output that pixel_shuffle puts together. 36 taps for an input pixel."""
    outputs, channels = weight.shape[:2]
    taps = weight.new_tensor(TAPS, dtype=torch.float32)
    kernels = weight.float().reshape(outputs * channels, 1, 3, 3)
    kernel = F.conv_transpose2d(kernels, torch.outer(taps, taps)[None, None]).reshape(outputs, channels, 6, 6)
    # y[2a+p] = sum_j x[a+j-1] K[p+4-2j]
    phases = [kernel[:, :, [r + 4, r + 2, r]][..., [c + 4, c + 2, c]] for r in range(2) for c in range(2)]
    folded = torch.stack(phases, 1).reshape(4 * outputs, channels, 3, 3)
    return folded.to(weight.dtype, memory_format=torch.channels_last)


def _filter(channels: int, like: Tensor) -> Tensor:
    taps = like.new_tensor(TAPS)
    return torch.outer(taps, taps).expand(channels, 1, 4, 4).contiguous()


def _reference(up: int) -> Callable[..., Tensor]:
    def reference(x: Tensor, styles: Tensor, weight: Tensor, q: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
        return modulated_conv2d_reference(
            x, weight, styles, q=q, noise=noise, bias=bias, up=up, slope=LRELU_SLOPE, gain=LRELU_GAIN
        )

    return reference


def _demodulation(styles: Tensor, q: Tensor) -> Tensor:
    return LRELU_GAIN * torch.rsqrt(styles.square() @ q.t() + EPSILON)  # the activation's gain passes through it


def _finish(y: Tensor, styles: Tensor, q: Tensor, added: Tensor) -> Tensor:
    y = torch.addcmul(added, y, _demodulation(styles, q).to(y.dtype)[:, :, None, None])
    return F.leaky_relu(y, LRELU_SLOPE, inplace=True)


def _scale(x: Tensor, styles: Tensor) -> Tensor:
    return x * styles.to(x.dtype)[:, :, None, None]


def _scaled(x: Tensor, styles: Tensor, weight: Tensor, q: Tensor, added: Tensor) -> Tensor:
    return _finish(F.conv2d(_scale(x, styles), weight, padding=1), styles, q, added)


def _scaled_up(x: Tensor, styles: Tensor, weight: Tensor, fir: Tensor, q: Tensor, added: Tensor) -> Tensor:
    y = F.conv_transpose2d(_scale(x, styles), weight, stride=2)
    return _finish(F.conv2d(y, fir, padding=1, groups=len(fir)), styles, q, added)


def _folded(x: Tensor, styles: Tensor, weight: Tensor, q: Tensor, added: Tensor) -> Tensor:
    return _finish(F.pixel_shuffle(F.conv2d(_scale(x, styles), weight, padding=1), 2), styles, q, added)


def _sample_weight(styles: Tensor, weight: Tensor, q: Tensor) -> Tensor:
    scaled = weight.float() * styles[0][:, None, None] * _demodulation(styles, q)[0][:, None, None, None]
    return scaled.to(weight.dtype)


def _one_weight(x: Tensor, styles: Tensor, weight: Tensor, q: Tensor, added: Tensor) -> Tensor:
    y = F.conv2d(x, _sample_weight(styles, weight, q), padding=1)
    return F.leaky_relu(y + added, LRELU_SLOPE, inplace=True)


def _one_weight_up(x: Tensor, styles: Tensor, weight: Tensor, fir: Tensor, q: Tensor, added: Tensor) -> Tensor:
    y = F.conv_transpose2d(x, _sample_weight(styles, weight, q).transpose(0, 1), stride=2)
    y = F.conv2d(y, fir, padding=1, groups=len(fir))
    return F.leaky_relu(y + added, LRELU_SLOPE, inplace=True)


def _sample_weights(styles: Tensor, weight: Tensor) -> Tensor:
    """[B, O, I, 3, 3] float32, modulated and demodulated."""
    scaled = weight[None] * styles[:, None, :, None, None]
    return scaled * torch.rsqrt(scaled.square().sum((2, 3, 4)) + EPSILON)[:, :, None, None, None]


def _activate(y: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(y + noise + bias[:, None, None], LRELU_SLOPE) * LRELU_GAIN


def _grouped(x: Tensor, styles: Tensor, weight: Tensor, noise: Tensor, bias: Tensor, fir: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    weights = _sample_weights(styles, weight).to(x.dtype).flatten(0, 1)
    y = F.conv2d(x.reshape(1, batch * channels, height, width), weights, padding=1, groups=batch)
    return _activate(y.view(batch, -1, height, width), noise, bias)


def _grouped_up(x: Tensor, styles: Tensor, weight: Tensor, noise: Tensor, bias: Tensor, fir: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    weights = _sample_weights(styles, weight).to(x.dtype).transpose(1, 2).flatten(0, 1)
    y = F.conv_transpose2d(x.reshape(1, batch * channels, height, width), weights, stride=2, groups=batch)
    y = F.conv2d(y, fir, padding=1, groups=len(fir))
    return _activate(y.view(batch, -1, 2 * height, 2 * width), noise, bias)
