"""W+ optimization on a real generator: images that it can make are found again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from legato.errors import InvalidImage, InvalidInput
from legato.inversion import Checkpoint, Inversion, in_domain, multi_code, w_plus
from legato.inversion.in_domain import diffuse
from legato.inversion.w_plus import LatentNoise, Space, latent_deviation, noise_correlation
from legato.losses import psnr
from legato.models import Generator
from tests.pipeline.model import DIM, LAYERS, small_model, stream, to_image
from tests.tolerances import EXACT, LOSS_ROUNDING

SPACES: tuple[Space, ...] = ("w", "w_plus")


def targets() -> tuple[Generator, Tensor]:
    """A generator and two images [2, 3, 64, 64] that it can make."""
    model = small_model()
    return model.generator.requires_grad_(False), torch.cat([to_image(frame) for frame in stream(model, 2)])


def test_steps_bring_the_image_closer_from_a_code_and_from_w_avg() -> None:
    model = small_model()
    generator = model.generator.requires_grad_(False)
    images = torch.cat([to_image(frame) for frame in stream(model, 2)])
    with torch.no_grad():
        encoded = model.encoder(images)
        before = psnr(generator(encoded), images)
        from_mean = psnr(generator(generator.w_avg.expand(2, LAYERS, -1)), images)
    code = w_plus(generator, images, encoded, layers=LAYERS, steps=12)
    mean = w_plus(generator, images, generator.w_avg, layers=LAYERS, steps=12)
    with torch.no_grad():
        assert (psnr(generator(code.latents), images) > before + 1.0).all()
        assert (psnr(generator(mean.latents), images) > from_mean + 1.0).all()
    assert code.latents.shape == mean.latents.shape == encoded.shape
    assert set(code.losses) == {"pixel", "pyramid"}
    assert not torch.equal(code.latents[0], code.latents[1])


def test_one_w_for_all_layers_is_a_narrower_space() -> None:
    generator, images = targets()
    found = {
        space: w_plus(generator, images, generator.w_avg, layers=LAYERS, space=space, steps=12) for space in SPACES
    }
    w = found["w"].latents
    assert w.shape == (2, LAYERS, DIM)
    torch.testing.assert_close(w, w[:, :1].expand_as(w), **EXACT)
    assert found["w"].free[0].shape == (2, 1, DIM)
    assert (found["w_plus"].totals[-1] < found["w"].totals[-1]).all()
    assert (found["w"].totals[-1] < found["w"].totals[0]).all()


def test_features_take_the_place_of_the_pyramid() -> None:
    generator, images = targets()

    def features(image: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(image, 4), F.avg_pool2d(image, 8).square()]

    found = w_plus(generator, images, generator.w_avg, layers=LAYERS, steps=8, features=features, perceptual_weight=3.0)
    assert set(found.losses) == {"pixel", "perceptual"}
    torch.testing.assert_close(found.totals, found.losses["pixel"] + 3.0 * found.losses["perceptual"], **LOSS_ROUNDING)
    with torch.no_grad():
        start = features(generator(generator.w_avg.expand(2, LAYERS, -1)))
    by_hand = sum((a - b).square().mean((1, 2, 3)) for a, b in zip(start, features(images), strict=True))
    torch.testing.assert_close(found.losses["perceptual"][0], by_hand, **LOSS_ROUNDING)
    assert (found.losses["perceptual"][-1] < found.losses["perceptual"][0]).all()


def test_latent_noise_is_there_at_first_and_the_same_each_time() -> None:
    generator, images = targets()
    noise = LatentNoise(deviation=10.0)
    runs = [
        w_plus(generator, images, generator.w_avg, layers=LAYERS, steps=6, latent_noise=given)
        for given in (None, noise, noise, LatentNoise(deviation=10.0, seed=1))
    ]
    assert torch.equal(runs[1].latents, runs[2].latents)
    assert len({float(run.totals[0, 0]) for run in runs}) == 3
    assert [noise.scale(step, 100) for step in (0, 75, 90)] == [0.5, 0.0, 0.0]


def test_noise_maps_take_what_is_noise_and_leave_the_picture() -> None:
    generator, images = targets()
    runs = {
        weight: w_plus(generator, images, generator.w_avg, layers=LAYERS, steps=10, noise_weight=weight)
        for weight in (1e-9, 1e2)
    }
    maps = runs[1e2].free[1:]
    assert [noise.shape[-1] for noise in maps] == [4, 8, 8, 16, 16, 32, 32, 64, 64]
    moved = [not torch.equal(a, b) for a, b in zip(maps, runs[1e-9].free[1:], strict=True)]
    assert all(moved)
    assert (noise_correlation(maps) < noise_correlation(runs[1e-9].free[1:])).all()


def test_a_picture_correlates_and_noise_does_not() -> None:
    smooth = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    assert float(noise_correlation([torch.randn(1, 1, 32, 32)])) < 0.1 * float(noise_correlation([smooth]))
    assert noise_correlation([smooth.expand(3, 1, 32, 32)]).shape == (3,)


def test_the_deviation_of_w() -> None:
    generator, _ = targets()
    w = generator.map(torch.randn(4096, DIM, generator=torch.Generator().manual_seed(0)))[:, 0]
    expected = float((w - generator.w_avg).norm(dim=1).square().mean() ** 0.5)
    assert latent_deviation(generator) == pytest.approx(expected)


def test_a_killed_inversion_goes_on_and_another_images_does_not(tmp_path: Path) -> None:
    generator, images = targets()
    checkpoint = Checkpoint(tmp_path / "w.safetensors", every=2)

    def run(images: Tensor, checkpoint: Checkpoint | None, stop: int = 0) -> Inversion:
        def on_step(step: int) -> None:
            if step == stop:
                raise KeyboardInterrupt

        return w_plus(
            generator,
            images,
            generator.w_avg,
            layers=LAYERS,
            steps=6,
            latent_noise=LatentNoise(1.0),
            on_step=on_step,
            checkpoint=checkpoint,
        )

    with pytest.raises(KeyboardInterrupt):
        run(images, checkpoint, stop=3)
    assert torch.equal(run(images, checkpoint).latents, run(images, None).latents)
    with pytest.raises(InvalidInput, match="another solve"):
        run(images + 0.1, checkpoint)


def test_a_start_that_does_not_fit_is_refused() -> None:
    generator, images = targets()
    with pytest.raises(InvalidInput, match=r"got \[2, 3, 64, 64\] and \[3, 10, 32\]"):
        w_plus(generator, images, torch.zeros(3, LAYERS, DIM), layers=LAYERS)


@pytest.mark.parametrize("method", ["w_plus", "in_domain", "diffuse", "multi_code"])
def test_pixels_that_are_no_numbers_are_told(method: str) -> None:
    generator, images = targets()
    encoder = small_model().encoder.requires_grad_(False)
    images[1, 0, 3, 3] = float("nan")
    methods: dict[str, Callable[[], object]] = {
        "w_plus": lambda: w_plus(generator, images, generator.w_avg, layers=LAYERS, steps=1),
        "in_domain": lambda: in_domain(generator, encoder, images),
        "diffuse": lambda: diffuse(generator, encoder, images, images, torch.ones(1, 1, 64, 64)),
        "multi_code": lambda: multi_code(generator, images),
    }
    with pytest.raises(InvalidImage, match=r"1 of the .* holds NaN"):
        methods[method]()
