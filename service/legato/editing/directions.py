"""Named directions in W+: one step of strength 1 moves an attribute by one standard deviation.

File: safetensors with legato's header (`legato.models.files`), one tensor [L, D] per name; the config holds what was
measured of each and the digest of the generator that they were fitted on. Directions of another generator mean nothing,
not even those of an earlier training state of it, so a digest that differs is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from legato.errors import InvalidEdit, ModelFileError
from legato.models.files import read_tensors, resolve, write_tensors
from legato.models.generator import Generator
from legato.types import DirectionInfo, Edit

KIND = "directions"


class Directions:
    """Directions of one generator, in the order of their names."""

    def __init__(
        self, vectors: Mapping[str, Tensor], infos: Mapping[str, DirectionInfo], *, generator_digest: str
    ) -> None:
        """vectors: name -> [L, D] float; infos: the same names. Raises ValueError where they do not fit together."""
        shapes = {tuple(v.shape) for v in vectors.values()}
        if set(vectors) != set(infos) or len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(
                "directions are [L, D] of one size, each with its info; "
                f"got vectors { ({n: list(v.shape) for n, v in vectors.items()}) }, infos of {sorted(infos)}"
            )
        self._vectors = {name: vectors[name].detach().float() for name in sorted(vectors)}
        self._infos = dict(infos)
        self.generator_digest = generator_digest

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._vectors)

    def info(self, name: str) -> DirectionInfo:
        self._check(name)
        return self._infos[name]

    def vector(self, name: str) -> Tensor:
        """[L, D] float32: the change of the latents that moves the attribute by one standard deviation."""
        self._check(name)
        return self._vectors[name]

    def edit(self, latents: Tensor, edits: Sequence[Sequence[Edit]]) -> Tensor:
        """latents [B, L, D] and each sample's edits -> latents + sum of strength * direction; the input stays.

        A sample's result is the same, bit for bit, whatever the others in the batch ask for, and whatever the order of
        its directions. A direction named twice counts twice. Raises InvalidEdit on an unknown name.
        """
        if latents.dim() != 3 or len(edits) != latents.shape[0]:
            raise ValueError(f"one list of edits per sample: latents {list(latents.shape)}, {len(edits)} lists")
        strengths: dict[str, list[float]] = {}
        for sample, wanted in enumerate(edits):
            for edit in wanted:
                self._check(edit.direction)
                strengths.setdefault(edit.direction, [0.0] * len(edits))[sample] += edit.strength
        for name in sorted(strengths):
            amount = torch.tensor(strengths[name], dtype=latents.dtype, device=latents.device)
            latents = latents + amount[:, None, None] * self._vectors[name].to(latents)
        return latents

    def to(self, device: torch.device | str) -> Directions:
        """A copy whose vectors lie on `device`."""
        vectors = {name: v.to(device) for name, v in self._vectors.items()}
        return Directions(vectors, self._infos, generator_digest=self.generator_digest)

    def _check(self, name: str) -> None:
        if name not in self._vectors:
            known = ", ".join(self._vectors) or "none"
            raise InvalidEdit(f"no direction is named {name!r}; this model has: {known}")


def unmeasured(
    vectors: Mapping[str, Tensor],
    descriptions: Mapping[str, str],
    generator: Generator,
    *,
    layers: Sequence[int] | None = None,
) -> Directions:
    """Directions [L, D] of vectors [D], the same on every layer, or [L, D]; 0 on layers other than `layers`.

    For methods that find directions without labels: nothing is known of an attribute, so response and leakage are 0.
    Raises ValueError where a vector or a layer does not fit the generator.
    """
    count, dim = generator.num_layers, generator.config.w_dim
    mask = layer_mask(count, layers)
    found = {}
    for name, vector in vectors.items():
        if tuple(vector.shape) not in ((dim,), (count, dim)):
            raise ValueError(f"{name!r} is [{dim}] or [{count}, {dim}]; got {list(vector.shape)}")
        found[name] = vector.expand(count, dim) * mask.to(vector)
    infos = {name: DirectionInfo(name, descriptions[name], response=0.0, leakage=0.0) for name in found}
    return Directions(found, infos, generator_digest=generator.digest)


def layer_mask(count: int, layers: Sequence[int] | None) -> Tensor:
    """[count, 1] of 1 at `layers`, else 0; None is all. Raises ValueError on a layer that is not there or on none."""
    if layers is None:
        return torch.ones(count, 1)
    if not layers or not set(layers) <= set(range(count)):
        raise ValueError(f"layers are among 0 ... {count - 1}, at least one; got {list(layers)}")
    mask = torch.zeros(count, 1)
    mask[list(layers)] = 1.0
    return mask


def save_directions(directions: Directions, path: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write directions; `provenance` (JSON values) says how they were fitted and measured. Raises ModelFileError."""
    write_tensors(
        path,
        {name: directions.vector(name).cpu() for name in directions.names},
        kind=KIND,
        config={
            "generator_digest": directions.generator_digest,
            "infos": {name: asdict(directions.info(name)) for name in directions.names},
        },
        recipe=provenance,
    )


def load_directions(path_or_name: str | Path, *, generator_digest: str | None = None) -> Directions:
    """Directions from a file, a folder that holds directions.safetensors, or the name of a packaged model.

    Raises ModelFileError where the file is missing or damaged, or was fitted on a generator with another digest than
    the one given.
    """
    path = resolve(path_or_name, "directions.safetensors")
    header, tensors = read_tensors(path, kind=KIND)
    try:
        infos = {name: DirectionInfo(**fields) for name, fields in header.config["infos"].items()}
        directions = Directions(tensors, infos, generator_digest=header.config["generator_digest"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"{path}: its header does not describe its directions: {error}. Fit them again") from error
    if generator_digest is not None and directions.generator_digest != generator_digest:
        raise ModelFileError(
            f"{path} was fitted on the generator {directions.generator_digest[:16]}...; the one in use is "
            f"{generator_digest[:16]}... Give the directions of that generator, or fit them again"
        )
    return directions
