"""An encoder for a frozen generator: it learns from pictures and samples, judged or not, and goes on to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from legato.models import Encoder, load_encoder, save_model
from legato.models.generator import Generator, GeneratorConfig
from legato.train.encoder import EncoderTraining, EncoderTrainingConfig
from legato.train.encoder_recipes import encoder_config
from legato.train.recipes import Options
from tests.tolerances import EXACT, GENERATOR_ROUNDING
from tests.train.small import ENCODER_64, GENERATOR_64, Killed, assert_resumes_to_the_bit, heads, kill_after

CONFIG = EncoderTrainingConfig(
    ENCODER_64,
    images=4 * 4,
    batch=4,
    adversarial=0.1,
    adversarial_share=0.75,
    discriminator_base=64,
    discriminator_images=4,
    samples=0.0,
    precision="float32",
    checkpoint_seconds=0,
)
IN_DOMAIN = replace(CONFIG, objective="in-domain", adversarial=0.08, adversarial_share=1.0, r1_gamma=10.0, spread=0.0)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(3)
    made = Generator(GENERATOR_64).requires_grad_(False)
    made.w_avg.copy_(torch.randn(GENERATOR_64.w_dim))
    return made


def training(
    folder: Path, generator: Generator, config: EncoderTrainingConfig, samples: bool = False
) -> EncoderTraining:
    data = heads(4, 64)
    return EncoderTraining(config, folder, generator, None if samples else lambda: data, None if samples else data)


def test_begins_at_the_mean_latent(tmp_path: Path, generator: Generator) -> None:
    run = training(tmp_path, generator, CONFIG)
    for module in (run.encoder, run.average):
        torch.testing.assert_close(module.w_avg, generator.w_avg, **EXACT)


def test_differentiates_the_generator_by_the_fused_ops(tmp_path: Path, generator: Generator) -> None:
    """With the gradient that the reference gives."""
    run = training(tmp_path, generator, CONFIG)
    assert not run.generator.training
    gradients = []
    for live in (False, True):
        latents = torch.randn(2, 10, 16, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        run.generator.train(live)(latents).square().mean().backward()
        gradients.append(latents.grad)
    torch.testing.assert_close(gradients[0], gradients[1], **GENERATOR_ROUNDING)


def test_learns_a_small_set_and_leaves_the_generator(tmp_path: Path, generator: Generator) -> None:
    config = replace(CONFIG, images=4 * 30, adversarial=0.0, checkpoint_seconds=1e9, rate=1e-2)
    run = training(tmp_path, generator, config)
    before = [p.clone() for p in generator.parameters()]
    losses: list[float] = []
    run.run(lambda batch, values: losses.append(float(values["rebuilt"])))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all(torch.equal(now, then) for now, then in zip(generator.parameters(), before, strict=True))
    (row,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"psnr_db", "rebuilt", "spread"} <= row.keys()


def test_the_discriminator_is_listened_to_after_it_has_seen_some(tmp_path: Path, generator: Generator) -> None:
    run = training(tmp_path, generator, CONFIG)
    seen: list[set[str]] = []
    run.run(lambda batch, values: seen.append(set(values)))
    ours, judged = {"rebuilt", "spread"}, {"rebuilt", "spread", "real", "fake"}
    assert seen == [ours, judged, judged | {"fooled"}, judged | {"fooled"}]


def test_in_domain_learns_and_so_does_its_discriminator(tmp_path: Path, generator: Generator) -> None:
    config = replace(IN_DOMAIN, images=4 * 60, checkpoint_seconds=1e9, rate=1e-2)
    seen: list[dict[str, float]] = []
    training(tmp_path, generator, config).run(
        lambda batch, values: seen.append({name: float(value) for name, value in values.items()})
    )

    def mean(name: str, of: slice) -> float:
        found = [values[name] for values in seen[of] if name in values]
        return sum(found) / len(found)

    start, end = slice(0, 10), slice(-10, None)
    assert mean("squares", end) < 0.9 * mean("squares", start)
    assert mean("perceptual", end) < 0.9 * mean("perceptual", start)
    gaps = [mean("real", of) - mean("fake", of) for of in (start, end)]
    assert gaps[1] > gaps[0] + 0.1  # the discriminator tells them apart
    assert "fooled" in seen[-1]
    assert "rebuilt" not in seen[-1]


class Thirds:
    """Features that say where the image is bright."""

    def __init__(self) -> None:
        self.asked = 0

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.asked += 1
        return [image.mean(1, keepdim=True), image[:, :1] * 3]


def test_in_domain_compares_features(tmp_path: Path, generator: Generator) -> None:
    data, features = heads(4, 64), Thirds()
    config = replace(IN_DOMAIN, images=4)
    run = EncoderTraining(config, tmp_path, generator, lambda: data, data, features=features)
    _, values = run.step()
    assert features.asked == 2  # of the images and of what was made of them
    assert float(values["perceptual"]) > 0


@pytest.mark.parametrize("samples", [False, True], ids=["pictures", "samples"])
def test_goes_on_to_the_bit(tmp_path: Path, generator: Generator, samples: bool) -> None:
    assert_resumes_to_the_bit(lambda folder: training(folder, generator, CONFIG, samples), tmp_path, 3)


def test_in_domain_goes_on_to_the_bit(tmp_path: Path, generator: Generator) -> None:
    assert_resumes_to_the_bit(lambda folder: training(folder, generator, IN_DOMAIN), tmp_path, 3)


def test_samples_bring_their_codes(tmp_path: Path, generator: Generator) -> None:
    run = training(tmp_path, generator, replace(CONFIG, adversarial=0.0, checkpoint_seconds=1e9), samples=True)
    with pytest.raises(Killed):
        run.run(kill_after(1))
    _, values = run.step()
    assert "code" in values
    first, again = run.figures(), run.figures()
    assert first == again  # the held-out samples are the same at every report


def test_images_and_samples_share_a_batch(tmp_path: Path, generator: Generator) -> None:
    config = replace(CONFIG, adversarial=0.0, samples=0.5, code=50.0, images=4 * 80, checkpoint_seconds=1e9, rate=1e-2)
    run = training(tmp_path, generator, config)
    batch = run._draw(4)
    assert batch.latents is not None
    assert batch.latents.shape == (2, 10, 16)
    assert len(batch.images) == len(batch.masks) == 4
    torch.testing.assert_close(batch.images[:2], generator(batch.latents).clamp(-1, 1), **GENERATOR_ROUNDING)
    assert not batch.masks[:2].any()
    assert batch.masks[2:].any()
    distances: list[float] = []
    run.run(lambda _, values: distances.append(float(values["code"])))
    assert sum(distances[-10:]) < 0.9 * sum(distances[:10])


def test_images_and_samples_go_on_to_the_bit(tmp_path: Path, generator: Generator) -> None:
    config = replace(CONFIG, samples=0.5)
    assert_resumes_to_the_bit(lambda folder: training(folder, generator, config), tmp_path, 3)


def test_goes_on_from_an_encoder(tmp_path: Path, generator: Generator) -> None:
    """With its codes at first, and leaves it as it was."""
    torch.manual_seed(5)
    init = Encoder(ENCODER_64).eval().requires_grad_(False)
    init.offset_weight.normal_()
    before = {name: tensor.clone() for name, tensor in init.state_dict().items()}
    data = heads(4, 64)
    config = replace(CONFIG, adversarial=0.0, init="0123", rate=1e-2)

    def make(folder: Path) -> EncoderTraining:
        return EncoderTraining(config, folder, generator, lambda: data, data, init=init)

    run = make(tmp_path / "one")
    x = torch.randn(2, 3, 64, 64)
    for module in (run.encoder, run.average):
        torch.testing.assert_close(module(x), init(x), **GENERATOR_ROUNDING)
    run.run()
    assert (run.average(x) - init(x)).abs().max() > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in init.state_dict().items())
    assert_resumes_to_the_bit(make, tmp_path / "two", 3)


@pytest.mark.parametrize("size", [32, 256])
def test_other_resolutions(tmp_path: Path, size: int) -> None:
    wide = GeneratorConfig(size, 16, 16, 2, channel_base=2 * size, channel_max=8)
    options = Options(images=4, batch=4, channel_base=2 * size, channel_max=8, precision="float32")
    generator = Generator(wide).requires_grad_(False)
    run = EncoderTraining(encoder_config(generator, options), tmp_path, generator)
    assert run.run()
    assert run.average(torch.zeros(1, 3, size, size)).shape == (1, wide.num_layers, 16)


def test_exported_encoder_gives_the_same_latents(tmp_path: Path, generator: Generator) -> None:
    run = training(tmp_path, generator, replace(CONFIG, images=8))
    run.run()
    save_model(run.average, tmp_path / "encoder.safetensors", meta={}, dtype=torch.float32)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(load_encoder(tmp_path)(x), run.average.eval()(x), **EXACT)
