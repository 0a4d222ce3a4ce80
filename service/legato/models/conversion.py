"""A checkpoint of any format as legato's own file; its header tells architecture, digest, license and origin."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from legato.errors import ModelFileError
from legato.models import formats
from legato.models.discriminator import Discriminator
from legato.models.encoder import ImageEncoder
from legato.models.encoder_files import load_encoder
from legato.models.files import Header, is_own, load_discriminator, load_generator, read_header, save_model
from legato.models.formats import Checkpoint
from legato.models.generator import Generator

UNSTATED = "not stated"
Convertible = Generator | Discriminator | ImageEncoder


def convert(
    source: Path,
    out: Path,
    *,
    network: Literal["generator", "discriminator", "encoder"] = "generator",
    dtype: torch.dtype = torch.float32,
    license: str | None = None,
    origin: str | None = None,
    conv_clamp: float | None = None,
) -> tuple[Path, Header]:
    """Write `network` of the file to `out`, a .safetensors file or a folder; in float32 the weights are bit-identical.

    `license` and `origin` are told in the header; without them a file of legato's own keeps what it says. `conv_clamp`
    stands for what a file does not say of itself. Raises ModelFileError, and leaves `out` as it was.
    """
    if out.is_dir() or not out.suffix:
        out = out / f"{network}.safetensors"
    if out.suffix != ".safetensors":
        raise ModelFileError(f"{out}: converted models are .safetensors files. Name such a file, or a folder for it")
    module, recipe = _own(source, network) if is_own(source) else _foreign(source, network, conv_clamp)
    recipe["license"] = license or recipe.get("license") or UNSTATED
    if origin is not None:
        recipe["origin"] = {**recipe.get("origin", {}), "told": origin}
    out.parent.mkdir(parents=True, exist_ok=True)
    return out, save_model(module, out, meta=recipe, dtype=dtype)


def _own(source: Path, network: str) -> tuple[Convertible, dict[str, Any]]:
    loaders: dict[str, Callable[[Path], Convertible]] = {
        "generator": load_generator,
        "discriminator": load_discriminator,
        "encoder": load_encoder,
    }
    return loaders[network](source), dict(read_header(source).recipe)


def _encoder(source: Path) -> tuple[Convertible, dict[str, Any]]:
    with formats.open_checkpoint(source) as (_, checkpoint):
        origin = _origin(source, checkpoint)
    return load_encoder(source), {"origin": origin}


def _foreign(source: Path, network: str, conv_clamp: float | None) -> tuple[Convertible, dict[str, Any]]:
    if network == "encoder":
        return _encoder(source)
    with formats.open_checkpoint(source) as (content, checkpoint):
        found = checkpoint.generator if network == "generator" else checkpoint.discriminator
        if found is None:
            raise content.source.refusal(f"({checkpoint.format}) holds no {network}. Give a file that has one")
        if conv_clamp is not None:
            if found.conv_clamp not in (None, conv_clamp):
                raise content.source.refusal(f"says that it clamps at {found.conv_clamp:g}; leave --conv-clamp out")
            found = replace(found, conv_clamp=conv_clamp, notes=(f"conv_clamp {conv_clamp:g} was given by hand",))
        build = formats.build_generator if network == "generator" else formats.build_discriminator
        module = build(found)
        return module, {"origin": _origin(source, checkpoint), "notes": list(found.notes)}


def _origin(source: Path, checkpoint: Checkpoint) -> dict[str, str]:
    with source.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": source.name, "format": checkpoint.format, "sha256": sha256}
