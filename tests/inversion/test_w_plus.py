"""W+ optimization on a real generator: images that it can make are found again."""

from __future__ import annotations

import torch

from legato.inversion import w_plus
from legato.losses import psnr
from tests.pipeline.model import LAYERS, small_model, stream, to_image


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
