"""The encoder: shapes, where it starts, and that it sees where things are."""

from __future__ import annotations

import pytest
import torch

from legato.models import Encoder, EncoderConfig
from tests.tolerances import BFLOAT16_IMAGE, GENERATOR_ROUNDING


def small(resolution: int = 64, layers: int = 10) -> Encoder:
    config = EncoderConfig(resolution, layers, w_dim=16, channel_base=256, channel_max=32, pyramid_channels=12)
    encoder = Encoder(config)
    encoder.w_avg.normal_()
    return encoder


@pytest.mark.parametrize(("resolution", "layers"), [(32, 8), (64, 10), (128, 12), (256, 14)])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes(resolution: int, layers: int, batch: int) -> None:
    latents = small(resolution, layers)(torch.randn(batch, 3, resolution, resolution))
    assert latents.shape == (batch, layers, 16)
    assert latents.dtype == torch.float32


def test_default_size() -> None:
    count = sum(p.numel() for p in Encoder(EncoderConfig()).parameters())
    assert 2e6 < count < 5e6


def test_starts_with_one_latent_around_the_mean() -> None:
    encoder = small()
    images = torch.randn(4, 3, 64, 64)
    latents = encoder(images)
    assert torch.equal(latents, latents[:, :1].expand_as(latents))
    assert not torch.equal(latents[0], latents[1])
    with torch.no_grad():
        encoder.shared.weight.zero_()
    assert torch.equal(encoder(images), encoder.w_avg.expand(4, 10, 16))


def test_every_weight_learns_once_the_layers_move_apart() -> None:
    encoder = small()
    with torch.no_grad():
        encoder.offset_weight.normal_()
    encoder(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_position_matters_to_every_layer() -> None:
    """A small mark on one side and the same on the other: pooled features could not tell them apart."""
    encoder = small().requires_grad_(False)
    encoder.offset_weight.normal_()
    left, right = torch.zeros(2, 1, 3, 64, 64)
    left[..., 28:36, 20:28] = 1
    right[..., 28:36, 36:44] = 1
    assert bool(((encoder(left) - encoder(right)).abs().amax(dim=2) > 0).all())


def test_training_and_inference_agree() -> None:
    encoder = small()
    images = torch.randn(2, 3, 64, 64)
    live = encoder(images).detach()
    torch.testing.assert_close(encoder.requires_grad_(False).eval()(images), live, **GENERATOR_ROUNDING)


def test_bfloat16_stays_close() -> None:
    encoder = small().requires_grad_(False).eval()
    encoder.offset_weight.normal_()
    images = torch.randn(4, 3, 64, 64)
    exact = encoder(images)
    encoder.autocast_dtype = torch.bfloat16
    rough = encoder(images)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).square().mean().sqrt() < BFLOAT16_IMAGE * exact.std()


def test_wrong_sizes_are_told() -> None:
    with pytest.raises(ValueError, match=r"image is \[B, 3, 64, 64\]; got \[1, 3, 32, 32\]"):
        small()(torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="a power of two of at least 32; got 16"):
        EncoderConfig(16)
    with pytest.raises(ValueError, match="pyramid_channels 4"):
        EncoderConfig(64, pyramid_channels=2)
