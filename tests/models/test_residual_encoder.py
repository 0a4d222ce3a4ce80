"""The residual encoder: nothing at first, sees both images and the code, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from legato.errors import ModelFileError
from legato.models import EncoderConfig, ResidualEncoder, load_encoder, load_residual_encoder, save_model
from legato.models.encoder import Encoder
from legato.models.encoders import StyleEncoder, StyleEncoderConfig
from tests.tolerances import BFLOAT16_IMAGE, EXACT, GENERATOR_ROUNDING

CONFIG = EncoderConfig(64, 10, w_dim=16, channel_base=256, channel_max=32, pyramid_channels=12)


def trained() -> ResidualEncoder:
    """As one that has learned something: no weight is zero."""
    residual = ResidualEncoder.from_encoder(encoder()).requires_grad_(False).eval()
    for name, parameter in residual.named_parameters():
        if not parameter.any():
            parameter.normal_(std=0.1 if name.endswith("bias") else 1.0)
    return residual


def encoder() -> Encoder:
    made = Encoder(CONFIG).requires_grad_(False).eval()
    made.w_avg.normal_()
    made.offset_weight.normal_()
    return made


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(batch, 3, 64, 64), torch.randn(batch, 3, 64, 64), torch.randn(batch, 10, 16)


def test_moves_nothing_at_first() -> None:
    for residual in (ResidualEncoder(CONFIG), ResidualEncoder.from_encoder(encoder())):
        moved = residual(*inputs(3))
        assert moved.shape == (3, 10, 16)
        assert moved.dtype == torch.float32
        assert not moved.any()


def test_beside_another_design_it_begins_anew() -> None:
    other = StyleEncoder(StyleEncoderConfig(64, 10, w_dim=128)).requires_grad_(False)
    other.latent_avg.normal_()
    residual = ResidualEncoder.from_encoder(other)
    assert (residual.config.resolution, residual.config.num_layers, residual.config.w_dim) == (64, 10, 128)
    torch.testing.assert_close(residual.w_avg, other.w_avg, **EXACT)
    x = torch.randn(2, 3, 64, 64)
    residual(x, -x, torch.randn(2, 10, 128)).sum().backward()
    assert not residual(x, -x, torch.randn(2, 10, 128)).any()
    assert all(p.grad is not None and p.grad.any() for p in residual.seen.parameters())


def test_starts_with_what_the_encoder_sees() -> None:
    """Where the rebuilt image is the image, the features are the encoder's own."""
    source = encoder()
    residual = ResidualEncoder.from_encoder(source).requires_grad_(False).eval()
    x, y, _ = inputs()
    for mine, its in zip(residual.hidden(torch.cat([x, y, torch.zeros_like(x)], 1)), source.hidden(x), strict=True):
        torch.testing.assert_close(mine, its, **GENERATOR_ROUNDING)


def test_every_weight_learns_once_it_looks() -> None:
    residual = ResidualEncoder.from_encoder(encoder()).requires_grad_(True)
    with torch.no_grad():
        for name, parameter in residual.named_parameters():
            if name.startswith(("seen", "codes")):
                parameter.normal_()
    residual(*inputs()).square().mean().backward()
    assert [n for n, p in residual.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("which", range(3), ids=["image", "rebuilt", "latents"])
def test_every_input_counts(which: int) -> None:
    residual, given = trained(), list(inputs())
    before = residual(*given)
    given[which] = given[which] + 0.5 * torch.randn_like(given[which])
    assert bool(((residual(*given) - before).abs().amax(2) > 0).all())


def test_images_do_not_mix() -> None:
    residual, given = trained(), inputs(3)
    alone = residual(*(x[1:2] for x in given))
    torch.testing.assert_close(residual(*given)[1:2], alone, **GENERATOR_ROUNDING)


def test_bfloat16_stays_close() -> None:
    residual, given = trained(), inputs()
    exact = residual(*given)
    residual.autocast_dtype = torch.bfloat16
    rough = residual(*given)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).square().mean().sqrt() < BFLOAT16_IMAGE * exact.std()


def test_file_round_trip(tmp_path: Path) -> None:
    residual, given = trained(), inputs()
    header = save_model(residual, tmp_path / "residual_encoder.safetensors", meta={}, dtype=torch.float32)
    loaded = load_residual_encoder(tmp_path)
    assert header.kind == "residual_encoder"
    assert loaded.digest == header.digest
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    torch.testing.assert_close(loaded(*given), residual(*given), **EXACT)


def test_an_encoder_is_no_residual_encoder(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    save_model(encoder(), path, meta={})
    with pytest.raises(ModelFileError, match="holds weights of kind 'encoder'; 'residual_encoder' was wanted"):
        load_residual_encoder(path)
    save_model(trained(), path, meta={})
    with pytest.raises(ModelFileError, match="holds weights of kind 'residual_encoder'; 'encoder' was wanted"):
        load_encoder(path)


def test_wrong_sizes_are_told() -> None:
    residual, (x, y, w) = ResidualEncoder(CONFIG), inputs()
    with pytest.raises(ValueError, match=r"image is \[B, 3, 64, 64\]; got \[2, 3, 32, 32\]"):
        residual(x[..., :32, :32], y, w)
    with pytest.raises(ValueError, match=r"rebuilt is \[B, 3, 64, 64\]; got \[3, 64, 64\]"):
        residual(x, y[0], w)
    with pytest.raises(ValueError, match=r"rebuilt has 2 images and latents is \[2, 10, 16\].*got 2 and \[2, 9, 16\]"):
        residual(x, y, w[:, 1:])
    with pytest.raises(ValueError, match="got 1 and"):
        residual(x, y[:1], w)
