"""What a generator learned beside its weights: the differences of some of them, in a small file.

File: safetensors with legato's header (`legato.models.files`), kind "delta", one float16 tensor for each parameter that
moved; the config holds the digest of the generator that they belong to. Added to another generator they are noise, so a
digest that differs is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from legato.errors import ModelFileError
from legato.models.files import Header, read_tensors, write_tensors
from legato.models.generator import Generator

KIND = "delta"


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """Differences of parameters, by their names, in the dtype of the file."""

    differences: Mapping[str, Tensor]
    generator_digest: str  # of the generator that they are added to
    digest: str  # sha256 of the differences


def differences(tuned: Generator, base: Generator) -> dict[str, Tensor]:
    """By how much the parameters of `tuned` differ from those of `base`, where they do: float16, on the CPU."""
    before = dict(base.named_parameters())
    return {
        name: (parameter.detach() - before[name].detach()).cpu().to(torch.float16)
        for name, parameter in tuned.named_parameters()
        if not torch.equal(parameter, before[name])
    }


def save_delta(tuned: Generator, base: Generator, path: str | Path, *, recipe: Mapping[str, Any]) -> Header:
    """Write what `tuned` learned beside `base`. Raises ModelFileError."""
    found = differences(tuned, base)
    return write_tensors(path, found, kind=KIND, config={"generator_digest": base.digest}, recipe=recipe)


def load_delta(path: str | Path, *, generator_digest: str | None = None) -> Delta:
    """A delta from its file.

    Raises ModelFileError where the file is missing or damaged, or belongs to a generator with another digest than the
    one given.
    """
    header, tensors = read_tensors(path, kind=KIND)
    owner = header.config.get("generator_digest")
    if not isinstance(owner, str):
        raise ModelFileError(f"{path}: its header does not tell whose delta it is. Make it again with: legato tune")
    if generator_digest is not None and owner != generator_digest:
        raise ModelFileError(
            f"{path} was tuned on the generator {owner[:16]}...; the one in use is {generator_digest[:16]}... Give the "
            "model that it was made with (--model), or make another one with: legato tune"
        )
    return Delta(tensors, owner, header.digest)


def with_delta(generator: Generator, delta: Delta) -> Generator:
    """The generator with the differences added: a new one, that shares all other tensors with the first.

    Its digest is that of the two together. Raises ModelFileError where a difference fits no parameter.
    """
    state = {name: tensor.detach() for name, tensor in generator.state_dict().items()}
    shapes = {name: parameter.shape for name, parameter in generator.named_parameters()}
    for name, difference in delta.differences.items():
        if shapes.get(name) != difference.shape:
            has = "no parameter" if name not in shapes else f"{list(shapes[name])}"
            raise ModelFileError(
                f"the delta moves {name} by {list(difference.shape)}, and the generator has {has} of that name"
            )
        state[name] = state[name] + difference.to(state[name])
    with torch.device("meta"):
        found = Generator(generator.config, autocast_dtype=generator.autocast_dtype)
    found.load_state_dict(state, assign=True)
    found.digest = hashlib.sha256(f"{generator.digest}+{delta.digest}".encode()).hexdigest()
    return found.requires_grad_(False).train(generator.training)
