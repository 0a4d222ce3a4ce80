"""In-domain inversion: codes that the encoder would give back, crops in another's context, lines and mixtures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from legato.errors import InvalidInput
from legato.inversion import in_domain
from legato.inversion.in_domain import InDomainOptions, diffuse, domain, interpolate, mix_styles, square_mask
from legato.losses import l1, psnr
from tests.pipeline.model import DIM, LAYERS, SIDE, Model, small_model, stream, to_image
from tests.tolerances import DOMAIN_GRADIENT, EXACT, LOSS_ROUNDING


@pytest.fixture(scope="module")
def model() -> Model:
    model = small_model()
    model.generator.requires_grad_(False)
    model.encoder.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def images(model: Model) -> Tensor:
    return torch.cat([to_image(frame) for frame in stream(model, 2)])


def gap(model: Model, latents: Tensor) -> Tensor:
    """mean((w - E(G(w)))^2)."""
    with torch.no_grad():
        again: Tensor = model.encoder(model.generator(latents))
        return (latents - again).square().mean((1, 2))


def test_it_starts_at_the_encoders_code_and_comes_closer(model: Model, images: Tensor) -> None:
    options = InDomainOptions(steps=10, lr=0.05)
    found = in_domain(model.generator, model.encoder, images, options=options)
    with torch.no_grad():
        start = model.encoder(images)
        assert (psnr(model.generator(found.latents), images) > psnr(model.generator(start), images)).all()
    torch.testing.assert_close(found.losses["domain"][0], gap(model, start), **LOSS_ROUNDING)
    assert set(found.losses) == {"pixel", "pyramid", "domain"}


def test_the_domain_term_keeps_the_code_where_the_encoder_would_put_it(model: Model, images: Tensor) -> None:
    runs = [
        in_domain(model.generator, model.encoder, images, options=InDomainOptions(12, lr=0.05, domain_weight=weight))
        for weight in (0.0, 20.0)
    ]
    free, held = (gap(model, found.latents) for found in runs)
    assert (held < free).all()
    assert "domain" not in runs[0].losses


def test_the_gradient_of_the_domain_term_goes_through_the_encoder(model: Model, images: Tensor) -> None:
    with torch.no_grad():
        start = model.encoder(images)
    direction, step = torch.randn_like(start), 1e-3
    term = domain(model.encoder, 1.0)

    def value(w: Tensor) -> Tensor:
        return term.measure(model.generator(w), w).sum()

    w = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(w), w)
    with torch.no_grad():
        slope = (value(start + step * direction) - value(start - step * direction)) / (2 * step)
        around = model.encoder(model.generator(start))
    torch.testing.assert_close((gradient * direction).sum(), slope, **DOMAIN_GRADIENT)
    without = (2 * (start - around) / start[0].numel() * direction).sum()
    assert (without - slope).abs() > 10 * DOMAIN_GRADIENT["rtol"] * slope.abs()


def test_as_released_it_is_squares_and_the_domain(model: Model, images: Tensor) -> None:
    options = InDomainOptions.released()
    assert (options.steps, options.lr, options.perceptual_weight, options.domain_weight) == (100, 0.01, 5e-5, 2.0)
    brief = InDomainOptions(2, squared_pixels=True, pyramid_weight=0.0, domain_weight=2.0)
    found = in_domain(model.generator, model.encoder, images, options=brief, features=lambda image: [image.square()])
    weighted = found.losses["squared"] + 5e-5 * found.losses["perceptual"] + 2.0 * found.losses["domain"]
    torch.testing.assert_close(found.totals, weighted, **LOSS_ROUNDING)


def test_a_start_of_ones_own(model: Model, images: Tensor) -> None:
    start = torch.randn(2, LAYERS, DIM)
    found = in_domain(model.generator, model.encoder, images, options=InDomainOptions(0), start=start)
    torch.testing.assert_close(found.latents, start, **EXACT)


def test_a_crop_is_diffused_into_a_context(model: Model) -> None:
    target, context = (to_image(stream(model, 1, seed=seed)[0]) for seed in (1, 2))
    mask = square_mask(SIDE, 28, (32, 36))
    found = diffuse(model.generator, model.encoder, target, context, mask, options=InDomainOptions(12, lr=0.05))
    torch.testing.assert_close(found.pasted, torch.where(mask.bool(), target, context), **EXACT)
    with torch.no_grad():
        start = model.generator(model.encoder(found.pasted))
        end = model.generator(found.inversion.latents)
    assert float(l1(mask * end, mask * target)) < float(l1(mask * start, mask * target))
    assert set(found.inversion.losses) == {"pixel", "pyramid"}
    elsewhere = target + (1 - mask)  # what lies outside the crop is not compared
    again = diffuse(model.generator, model.encoder, elsewhere, context, mask, options=InDomainOptions(12, lr=0.05))
    torch.testing.assert_close(again.inversion.latents, found.inversion.latents, **EXACT)


def test_masks_and_sizes_that_do_not_fit_are_refused(model: Model, images: Tensor) -> None:
    assert square_mask(8, 3, (4, 5)).nonzero().tolist()[0] == [0, 0, 4, 3]
    assert float(square_mask(8, 3, (4, 5)).sum()) == 9
    with pytest.raises(InvalidInput, match="Move or shrink"):
        square_mask(8, 4, (1, 4))
    with pytest.raises(InvalidInput, match=r"got \[2, 3, 64, 64\], \[1, 3, 64, 64\]"):
        diffuse(model.generator, model.encoder, images, images[:1], square_mask(SIDE, 4, (8, 8)))


def test_lines_and_mixtures() -> None:
    a, b = torch.randn(LAYERS, DIM), torch.randn(LAYERS, DIM)
    line = interpolate(a, b)
    assert line.shape == (7, LAYERS, DIM)
    torch.testing.assert_close(line[[0, 6]], torch.stack([a, b]), **EXACT)
    torch.testing.assert_close(line[3], (a + b) / 2, **LOSS_ROUNDING)
    mixed = mix_styles(a[None], b[None], [8, 9])
    torch.testing.assert_close(mixed[0], torch.cat([a[:8], b[8:]]), **EXACT)
    with pytest.raises(InvalidInput, match=r"layers are 0..9; got \[10\]"):
        mix_styles(a[None], b[None], [10])
