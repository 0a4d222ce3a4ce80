"""Encoders out of files: legato's own, of either design, and the checkpoints of pSp and e4e."""

from __future__ import annotations

from pathlib import Path

from legato.errors import ModelFileError
from legato.models.encoder import Encoder, EncoderConfig, ImageEncoder
from legato.models.encoders import StyleEncoder, StyleEncoderConfig
from legato.models.encoders.published import read_published
from legato.models.files import KINDS, digest, is_own, load_own, read_header, resolve
from legato.models.generator import Generator

ENCODER = "encoder.safetensors"


def load_encoder(path_or_name: str | Path, generator: Generator | None = None) -> ImageEncoder:
    """An encoder from a file, a folder that holds encoder.safetensors, or the name of a packaged model.

    The file is legato's own or a pSp or e4e checkpoint; `generator`, where given, is the one that it has to fit.
    Evaluation mode, float32, no gradients to weights. Raises ModelFileError.
    """
    path = resolve(path_or_name, ENCODER)
    if path.name == ENCODER and path.parent.is_dir() and not path.exists():
        raise ModelFileError(
            f"{path.parent} holds no {ENCODER}. Give the encoder that belongs to its generator (--encoder FILE: "
            f"legato's own, pSp's or e4e's), or train one with: legato train encoder --generator {path_or_name} --out "
            "FOLDER"
        )
    encoder: ImageEncoder
    if not is_own(path):
        encoder = read_published(path, generator)
        encoder.digest = digest(encoder.state_dict())
    elif path.is_file() and read_header(path).kind == KINDS[StyleEncoder]:
        encoder = load_own(path, StyleEncoder, StyleEncoderConfig)
    else:
        encoder = load_own(path, Encoder, EncoderConfig)
    if generator is not None and (wrong := unfit(encoder, generator)):
        raise ModelFileError(
            f"the encoder of {path_or_name} does not fit the generator: {wrong}. Train one with: legato train encoder "
            "--generator MODEL --out FOLDER"
        )
    return encoder


def unfit(encoder: ImageEncoder, generator: Generator) -> str:
    """In which sizes an encoder is not that of a generator; empty where it fits."""
    sizes = {
        "resolution": (encoder.config.resolution, generator.config.resolution),
        "layers": (encoder.config.num_layers, generator.num_layers),
        "w_dim": (encoder.config.w_dim, generator.config.w_dim),
    }
    return ", ".join(f"{what} {got} where {wanted} is wanted" for what, (got, wanted) in sizes.items() if got != wanted)
