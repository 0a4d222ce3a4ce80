"""pSp's and e4e's encoders: the arithmetic against its plain form, every size of generator, training and inference."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from legato.models.encoders import StyleEncoder, StyleEncoderConfig
from legato.models.encoders.style_encoder import Design
from tests.models.encoders.public import codes, random_state, shapes
from tests.tolerances import BFLOAT16_IMAGE, ENCODER_ROUNDING, EXACT

HEADS, DIM = 8, 128  # all three levels; 32 px


def made(design: Design = "psp", resolution: int = 256, heads: int = HEADS, *, wide: bool = False) -> StyleEncoder:
    encoder = StyleEncoder(StyleEncoderConfig(resolution, heads, DIM, design, wide))
    fill(encoder, random_state(heads, DIM // 8))
    return encoder.requires_grad_(False).eval()


def fill(encoder: StyleEncoder, state: Mapping[str, Tensor]) -> None:
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    encoder.load_state_dict({**kept, "latent_avg": torch.zeros(encoder.config.num_layers, DIM)})


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("design", "heads"), [("psp", HEADS), ("e4e", HEADS), ("psp", 2)])
def test_the_plain_form_gives_the_same(images: Tensor, design: Design, heads: int) -> None:
    encoder = made(design, heads=heads).double()
    wanted = codes(random_state(heads, DIM // 8), images, heads, progressive=design == "e4e")
    torch.testing.assert_close(encoder(images.double()), wanted, **ENCODER_ROUNDING)


def test_published_names_and_shapes() -> None:
    with torch.device("meta"):
        encoder = StyleEncoder(StyleEncoderConfig(1024, 18))
    ours = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    assert ours.pop("latent_avg") == (18, 512)
    theirs = {name: shape for name, shape in shapes(18).items() if not name.endswith("num_batches_tracked")}
    assert ours == theirs


def test_latent_avg_is_added(images: Tensor) -> None:
    encoder = made()
    before = encoder(images)
    encoder.latent_avg.normal_()
    torch.testing.assert_close(encoder(images), before + encoder.latent_avg, **EXACT)
    torch.testing.assert_close(encoder.w_avg, encoder.latent_avg.mean(0), **EXACT)


@pytest.mark.parametrize("resolution", [32, 128, 512, 1024])
def test_any_resolution_is_seen_at_256(resolution: int) -> None:
    """A smooth picture gives nearly the codes that it gives at 256 pixels."""
    encoder = made(resolution=resolution)
    line = torch.linspace(0, 3, 256)
    smooth = torch.stack([line[:, None].sin() * line.cos(), (line[:, None] + line).sin(), line[:, None].cos() * line])
    at_256 = smooth[None] / 3
    image = torch.nn.functional.interpolate(
        at_256, size=(resolution, resolution), mode="bilinear", antialias=resolution < 256, align_corners=False
    )
    inside = (encoder.seen(image) - at_256)[..., 8:-8, 8:-8]
    assert encoder.seen(image).shape == at_256.shape
    assert inside.abs().max() < 0.01
    assert encoder(image).shape == (1, HEADS, DIM)


def test_reducing_filters_before_it_samples() -> None:
    """A pattern of single pixels is gray at a quarter of the resolution, not one of its colors."""
    encoder = made(resolution=1024)
    stripes = torch.ones(1, 3, 1024, 1024)
    stripes[..., ::2] = -1
    assert encoder.seen(stripes)[..., 8:-8].abs().max() < 0.1


def test_cars_are_seen_without_the_upper_and_lower_eighth() -> None:
    encoder = made(resolution=512, wide=True)
    image = torch.rand(1, 3, 512, 512)
    seen = encoder.seen(image)
    assert seen.shape == (1, 3, 192, 256)
    black = image.clone()
    black[:, :, :64] = black[:, :, 448:] = -1
    assert torch.equal(encoder.seen(black), seen)
    assert torch.equal(encoder(black), encoder(image))
    black[:, :, 64] = -1
    assert not torch.equal(encoder.seen(black), seen)


def test_bfloat16_stays_close(images: Tensor) -> None:
    encoder = made()
    exact = encoder(images)
    encoder.autocast_dtype = torch.bfloat16
    rough = encoder(images)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).square().mean().sqrt() < BFLOAT16_IMAGE * exact.std()


def test_training_and_inference_agree_and_every_weight_learns(images: Tensor) -> None:
    encoder = made()
    wanted = encoder(images)
    statistics = encoder.state_dict()["input_layer.1.running_mean"].clone()
    encoder.train().requires_grad_(True)
    live = encoder(images)
    torch.testing.assert_close(live.detach(), wanted, **EXACT)
    live.square().mean().backward()
    still = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(".res_layer.5.fc" in name for name in still)  # a squeezed unit or two, negative for this picture
    assert torch.equal(encoder.state_dict()["input_layer.1.running_mean"], statistics)


def test_wrong_sizes_are_told(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"image is \[B, 3, 64, 64\]; got \[1, 3, 256, 256\]"):
        made(resolution=64)(images)
    for wrong in ({"resolution": 24}, {"num_layers": 0}, {"w_dim": 64}, {"design": "restyle"}):
        with pytest.raises(ValueError, match="got"):
            StyleEncoderConfig(**{"resolution": 64, "num_layers": 10, **wrong})  # type: ignore[arg-type]
