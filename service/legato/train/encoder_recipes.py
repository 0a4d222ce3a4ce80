"""What a few options mean in full for the trainings of encoders, and what a finished one leaves behind."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from legato.errors import ConfigError
from legato.models.encoder import Encoder, EncoderConfig, ImageEncoder, Sizes
from legato.models.encoder_files import ENCODER
from legato.models.files import is_own, resolve, save_model
from legato.models.generator import Generator
from legato.train.encoder import EncoderTraining, EncoderTrainingConfig
from legato.train.own import write_sefa
from legato.train.recipes import MODEL, Options, sizes
from legato.train.residual import ResidualConfig, ResidualTraining


def encoder_config(
    generator: Generator,
    options: Options,
    adversarial: float = 0.0,
    *,
    samples: float = 1.0,
    init: ImageEncoder | None = None,
    rate: float | None = None,
) -> EncoderTrainingConfig:
    """An encoder that fits `generator`, a new one or `init`. Raises ConfigError.

    Weights with an equalized learning rate begin at 2.5e-3, at 1e-3 where they have learned before; those of others
    at 1e-4, the rate of pSp's and e4e's own training.
    """
    g = generator.config
    if init is None:
        with sizes():
            base = options.channel_base or max(16 * g.resolution, 1024)
            encoder: Sizes = EncoderConfig(g.resolution, g.num_layers, g.w_dim, base, options.channel_max or 192)
    else:
        check_fits(init, generator)
        encoder = init.config
    begins = 2.5e-3 if init is None else 1e-3 if isinstance(init, Encoder) else 1e-4
    rate = rate or begins
    return EncoderTrainingConfig(
        encoder,
        images=options.images or 200_000,
        batch=options.batch or max(4, min(16, 16 * 256 // g.resolution)),
        rate=rate,
        rate_end=rate / 25,
        samples=samples,
        init=init.digest if init else "",
        adversarial=adversarial,
        discriminator_base=max(options.channel_base or 16 * g.resolution, g.resolution),
        precision=options.precision,
        seed=options.seed,
        checkpoint_seconds=options.checkpoint_seconds,
    )


def check_fits(encoder: ImageEncoder, generator: Generator) -> None:
    """Raises ConfigError where the encoder is of another generator."""
    g, e = generator.config, encoder.config
    if (g.resolution, g.num_layers, g.w_dim) != (e.resolution, e.num_layers, e.w_dim):
        raise ConfigError(
            f"the encoder gives {e.num_layers} layers of {e.w_dim} from {e.resolution} pixels, the generator takes "
            f"{g.num_layers} of {g.w_dim} to {g.resolution} pixels. Give an encoder of this generator"
        )


def in_domain_config(
    plain: EncoderTrainingConfig,
    adversarial: float | None = None,
    perceptual: str | None = None,
    perceptual_weight: float | None = None,
) -> EncoderTrainingConfig:
    """The domain-guided encoder (Zhu et al. 2020), with the weights of its released code, in place of a plain one.

    `perceptual` names the features; of others than the released code's the weight, as of LPIPS in Richardson et al.
    2021, is 0.8. Rates and the lazy R1 are those of the other objective: layers have an equalized learning rate here.
    """
    weights = {None: 1.0, "vgg16-in_domain": 5e-5}
    weight = weights.get(perceptual, 0.8) if perceptual_weight is None else perceptual_weight
    return replace(
        plain,
        objective="in-domain",
        adversarial=0.08 if adversarial is None else adversarial,
        adversarial_share=1.0,
        r1_gamma=10.0,
        spread=0.0,
        perceptual=perceptual or "pyramid",
        perceptual_weight=weight,
    )


def residual_config(generator: Generator, encoder: ImageEncoder, options: Options) -> ResidualConfig:
    """A residual encoder of the encoder's size. Raises ConfigError where the encoder is of another generator."""
    check_fits(encoder, generator)
    return ResidualConfig(
        images=options.images or 150_000,
        batch=options.batch or 12,
        precision=options.precision,
        seed=options.seed,
        checkpoint_seconds=options.checkpoint_seconds,
    )


def export_encoder(training: EncoderTraining, generator: str, meta: Mapping[str, Any]) -> Path:
    """The averaged encoder, beside copies of the generator that it belongs to and of that one's directions."""
    folder = training.folder / MODEL
    folder.mkdir(exist_ok=True)
    owners = {"generator": training.generator.digest}
    if training.config.init:
        owners["init"] = training.config.init
    dtype = torch.float16 if isinstance(training.average, Encoder) else torch.float32
    save_model(training.average, folder / ENCODER, meta={**meta, **owners}, dtype=dtype)
    _copy_generator(generator, training.generator, folder)
    return folder


def export_residual(training: ResidualTraining, generator: str, encoder: str, meta: Mapping[str, Any]) -> Path:
    """The averaged residual encoder, beside copies of what it belongs to."""
    folder = training.folder / MODEL
    folder.mkdir(exist_ok=True)
    owners = {"generator": training.generator.digest, "encoder": training.encoder.digest}
    save_model(training.average, folder / "residual_encoder.safetensors", meta={**meta, **owners})
    _copy_generator(generator, training.generator, folder)
    _copy(resolve(encoder, ENCODER), training.encoder, folder / ENCODER)
    return folder


def _copy_generator(name: str, generator: Generator, folder: Path) -> None:
    """And its directions; SeFa's where it has none."""
    source = resolve(name, "generator.safetensors")
    _copy(source, generator, folder / "generator.safetensors")
    directions = source.with_name("directions.safetensors")
    if not directions.exists():
        write_sefa(folder)
    elif directions.parent.resolve() != folder.resolve():
        shutil.copyfile(directions, folder / directions.name)


def _copy(source: Path, network: Generator | ImageEncoder, target: Path) -> None:
    """The file that a network was read from; the network itself where the file is of another format."""
    if not is_own(source):
        save_model(network, target, meta={"origin": {"file": source.name}}, dtype=torch.float32)
    elif source.resolve() != target.resolve():
        shutil.copyfile(source, target)
