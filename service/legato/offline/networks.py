"""The model that a command works with: generator, encoder, perceptual network and directions, on a device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from legato.devices import find_device
from legato.editing.directions import Directions, load_directions
from legato.engine_options import Precision, compute_dtype
from legato.errors import ConfigError, ModelFileError
from legato.inversion.methods import Networks
from legato.inversion.objective import Features
from legato.models import Generator, ImageEncoder, load_encoder, load_generator
from legato.models.delta import load_delta, with_delta
from legato.models.encoder_files import ENCODER
from legato.models.encoders.published import holds_encoder
from legato.models.files import is_own, read_header, resolve
from legato.models.perceptual import load_perceptual

PYRAMID = "pyramid"
_SHORT = {"attribute": "attributes", "vgg16": "vgg16-consecutive", "lpips": "lpips-alex"}
PERCEPTUAL = (PYRAMID, *_SHORT)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Networks, and what is known of them."""

    name: str
    networks: Networks
    precision: Literal["float32", "bfloat16"]  # inside the convolutions
    perceptual: str = PYRAMID  # the name of the perceptual network, and the file of its weights
    square: Literal["letterbox", "crop"] = "letterbox"  # how pictures of another shape were fitted in its training
    origin: str = ""  # digest of the generator before a delta was added to it
    encoder_psnr: float | None = None  # dB that the encoder reached on held-out images, where the model says so

    @property
    def generator(self) -> Generator:
        return self.networks.generator

    @property
    def encoder(self) -> ImageEncoder | None:
        return self.networks.encoder

    @property
    def resolution(self) -> int:
        return self.generator.config.resolution


def load_model(
    name: str,
    *,
    encoder: str | None = None,
    delta: Path | None = None,
    device: str = "cpu",
    precision: Precision = "auto",
    perceptual: str = PYRAMID,
    weights: Path | None = None,
) -> Model:
    """A model by its name or folder; `encoder` is another model's or a file, `delta` what its generator was tuned to,
    `weights` those of the perceptual network.

    Raises ModelFileError for files that are missing, damaged or do not fit together, ConfigError for a device that is
    not there and for weights that nothing asks for.
    """
    where = find_device(device)
    generator = load_generator(name)
    origin = generator.digest
    if delta is not None:
        generator = with_delta(generator, load_delta(delta, generator_digest=origin))
    generator = generator.to(where)
    found = _encoder(name, encoder, generator)
    if found is not None:
        found = found.to(where)
    dtype = compute_dtype(precision, where)
    for network in (generator, found):
        if network is not None:
            network.autocast_dtype = None if dtype == torch.float32 else dtype
    features: Features | None = None
    if perceptual == PYRAMID:
        if weights is not None:
            raise ConfigError(
                f"--perceptual-weights {weights} belongs to a perceptual network; name it with --perceptual "
                f"({', '.join(_SHORT)})"
            )
    else:
        try:
            loaded = load_perceptual(_SHORT.get(perceptual, perceptual), weights)
        except ModelFileError as error:
            raise ModelFileError(str(error).replace("option weights", "option --perceptual-weights")) from error
        if isinstance(loaded, torch.nn.Module):
            loaded.to(where)
        features = loaded.features
    return Model(
        name,
        Networks(generator, found, features),
        "float32" if dtype == torch.float32 else "bfloat16",
        perceptual if weights is None else f"{perceptual} ({weights.name})",
        square=_square(name),
        origin=origin,
        encoder_psnr=None if encoder is not None else _held_out(name),
    )


def directions_of(model: Model, file: Path | None = None) -> Directions:
    """The model's directions, or those of a file. Raises ModelFileError where they are another generator's."""
    found = load_directions(file or model.name, generator_digest=model.origin or model.generator.digest)
    return found.to(model.generator.w_avg.device)


def _square(name: str) -> Literal["letterbox", "crop"]:
    """As the generator's file says that its images were made square; of others the server's way."""
    try:
        told = read_header(resolve(name, "generator.safetensors")).recipe.get("square")
    except ModelFileError:  # of another format
        return "letterbox"
    return "crop" if told == "crop" else "letterbox"


def _encoder(name: str, encoder: str | None, generator: Generator) -> ImageEncoder | None:
    """The encoder asked for; that of the model, if it has one."""
    if encoder is None:
        path = resolve(name, ENCODER)
        beside = path.name == ENCODER and path.exists()
        if not beside and (is_own(path) or not holds_encoder(path)):
            return None
    return load_encoder(encoder or name, generator)


def _held_out(name: str) -> float | None:
    """What the model's own figures say of its encoder on held-out images, in dB."""
    try:
        figures = json.loads(resolve(name, "figures.json").read_text(encoding="utf-8"))
        return float(figures["psnr_db"]["encoder"])
    except (ModelFileError, OSError, ValueError, KeyError, TypeError):
        return None
