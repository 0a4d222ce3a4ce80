"""Equalized layers: variance at the start, the filter, and what is kept between calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from legato.models.layers import EqualConv2d, EqualLinear, blur, normalize_second_moment
from tests.tolerances import DOUBLE_GRADIENT, GENERATOR_ROUNDING, UNIT_MOMENT


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
def test_linear_starts_with_unit_moment(lr_multiplier: float) -> None:
    x = torch.randn(512, 256)
    for activate in (False, True):
        layer = EqualLinear(256, 256, lr_multiplier=lr_multiplier, activate=activate)
        spread = 1 / lr_multiplier
        assert abs(layer.weight.std().item() / spread - 1) < UNIT_MOMENT
        # lrelu(x) * sqrt 2 has the second moment (1 + slope^2): 1.04
        assert abs(layer(x).square().mean().item() - (1.04 if activate else 1.0)) < UNIT_MOMENT


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_starts_with_unit_moment(kernel: int) -> None:
    layer = EqualConv2d(64, 64, kernel)
    y = layer(torch.randn(4, 64, 16, 16))[:, :, 1:-1, 1:-1]
    assert abs(layer.weight.std().item() - 1) < UNIT_MOMENT
    assert abs(y.square().mean().item() - 1) < UNIT_MOMENT


def test_learning_rate_multiplier_scales_the_bias() -> None:
    layer = EqualLinear(3, 2, bias_init=5.0, lr_multiplier=0.1)
    torch.testing.assert_close(layer(torch.zeros(1, 3)), torch.full((1, 2), 0.5), **GENERATOR_ROUNDING)


def published_blur(x: Tensor, padding: int) -> Tensor:
    """The [1, 3, 3, 1] filter, one output pixel after the other."""
    taps = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])).to(x) / 64
    x = F.pad(x, (padding,) * 4)
    side = x.shape[2] - 3
    rows = [
        torch.stack([(x[:, :, i : i + 4, j : j + 4] * taps).sum(dim=(2, 3)) for j in range(side)]) for i in range(side)
    ]
    return torch.stack(rows).permute(2, 3, 0, 1)


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_blur(padding: int) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(blur(x, padding), published_blur(x, padding), **GENERATOR_ROUNDING)
    assert torch.autograd.gradcheck(lambda x: blur(x, padding), (x,), **DOUBLE_GRADIENT)
    assert torch.autograd.gradgradcheck(lambda x: blur(x, padding).square(), (x,), **DOUBLE_GRADIENT)


@pytest.mark.parametrize("kernel", [1, 3])
def test_stride_filters_before_it_drops_samples(kernel: int) -> None:
    layer = EqualConv2d(2, 3, kernel, stride=2)
    x = torch.randn(1, 2, 8, 8)
    expected = F.conv2d(published_blur(x, 1 + kernel // 2), layer.weight * layer.weight_gain, stride=2)
    assert layer(x).shape == (1, 3, 4, 4)
    torch.testing.assert_close(layer(x), expected, **GENERATOR_ROUNDING)


def test_gain_multiplies_the_output() -> None:
    plain = EqualConv2d(4, 4, 3, activate=True)
    louder = EqualConv2d(4, 4, 3, activate=True, gain=0.25)
    with torch.no_grad():
        plain.get_parameter("bias").normal_()
    louder.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(louder(x), plain(x) * 0.25, **GENERATOR_ROUNDING)


def test_kept_weights_follow_writes() -> None:
    layer = EqualLinear(4, 4).requires_grad_(False).eval()
    x = torch.randn(2, 4)
    with torch.inference_mode():
        before = layer(x).clone()
    layer.weight.mul_(2)
    layer.bias.add_(1)
    torch.testing.assert_close(layer(x), before * 2 + 1, **GENERATOR_ROUNDING)
    layer.weight.data = torch.zeros(4, 4)
    torch.testing.assert_close(layer(x), torch.ones(2, 4), **GENERATOR_ROUNDING)


def test_second_moment() -> None:
    x = normalize_second_moment(7 * torch.randn(5, 32))
    torch.testing.assert_close(x.square().mean(dim=1), torch.ones(5), **GENERATOR_ROUNDING)
