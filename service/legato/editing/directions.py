"""Named directions in W+ or S: one step of strength 1 moves an attribute by one standard deviation.

A direction of W+ is a step of the latents [L, D]. One of the style space S (Wu et al. 2021, StyleSpace Analysis) is a
step of all styles side by side, [C], in the order of `Generator.styles`; the affines are applied first. Both kinds mix,
in a batch and in an image.

File: safetensors with legato's header (`legato.models.files`), one such tensor per name; the config holds what was
measured of each and the digest of the generator that they were fitted on. Directions of another generator mean nothing,
not even those of an earlier training state of it, so a digest that differs is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from legato.devices import onto
from legato.errors import InvalidEdit, ModelFileError
from legato.models.files import read_tensors, resolve, write_tensors
from legato.models.generator import Generator, Noise
from legato.types import DirectionInfo, Edit, Space

KIND = "directions"
FILE = "directions.safetensors"


class Drawing(Protocol):
    """A generator, or what runs one."""

    def __call__(self, latents: Tensor, /) -> Tensor: ...
    def styles(self, latents: Tensor, /) -> list[Tensor]: ...
    def synthesize(self, styles: list[Tensor], /) -> Tensor: ...


class Directions:
    """Directions of one generator, in the order of their names."""

    def __init__(
        self, vectors: Mapping[str, Tensor], infos: Mapping[str, DirectionInfo], *, generator_digest: str
    ) -> None:
        """vectors: name -> [L, D] of W+ or [C] of S, float; infos: the same names, each with its vector's space.

        Raises ValueError where they do not fit together.
        """
        shapes = {(_space(v), tuple(v.shape)) for v in vectors.values()}
        spaces = {name: _space(v) for name, v in vectors.items()}
        if spaces != {name: info.space for name, info in infos.items()} or len(shapes) > len(set(spaces.values())):
            raise ValueError(
                "directions are [L, D] of W+ or [C] of S, those of a space of one size, each with its info; "
                f"got vectors { ({n: list(v.shape) for n, v in vectors.items()}) }, "
                f"infos of { ({n: info.space for n, info in sorted(infos.items())}) }"
            )
        self._vectors = {name: vectors[name].detach().float() for name in sorted(vectors)}
        self._infos = dict(infos)
        self._moved: dict[str, list[int]] = {}  # of directions of S: the layers that are not 0
        self.generator_digest = generator_digest

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._vectors)

    def info(self, name: str) -> DirectionInfo:
        self._check(name)
        return self._infos[name]

    def vector(self, name: str) -> Tensor:
        """[L, D] float32: the change of the latents that moves the attribute by one standard deviation.

        Raises InvalidEdit for a direction that is not in W+.
        """
        return self._in("w+", name)

    def style_step(self, name: str) -> Tensor:
        """[C] float32: the change of the styles that one of S is. Raises InvalidEdit for another."""
        return self._in("s", name)

    def step(self, name: str) -> Tensor:
        """The change of the direction's own space."""
        self._check(name)
        return self._vectors[name]

    def edit(self, latents: Tensor, edits: Sequence[Sequence[Edit]]) -> Tensor:
        """latents [B, L, D] and each sample's edits -> latents + sum of strength * direction; the input stays.

        A sample's result is the same, bit for bit, whatever the others in the batch ask for, and whatever the order of
        its directions. A direction named twice counts twice. Raises InvalidEdit on an unknown name, and on a direction
        of S, which no latents show: `images` takes both.
        """
        for wanted in edits:
            for edit in wanted:
                self._in("w+", edit.direction)
        return self.move(latents, edits)

    def images(self, generator: Generator, latents: Tensor, edits: Sequence[Sequence[Edit]]) -> Tensor:
        """The images [B, 3, R, R] of latents [B, L, D] with each sample's edits, of both spaces."""
        return self.draw(generator, self.move(latents, edits), edits)

    def move(self, latents: Tensor, edits: Sequence[Sequence[Edit]]) -> Tensor:
        """`edit` with those of the edits that are in W+: the first half of `images`."""
        if latents.dim() != 3 or len(edits) != latents.shape[0]:
            raise ValueError(f"one list of edits per sample: latents {list(latents.shape)}, {len(edits)} lists")
        for name, strengths in self._strengths("w+", edits):
            amount = onto(latents.device, torch.tensor(strengths, dtype=latents.dtype))
            latents = latents + amount[:, None, None] * self._vectors[name].to(latents)
        return latents

    def draw(self, generator: Drawing, latents: Tensor, edits: Sequence[Sequence[Edit]]) -> Tensor:
        """The images of moved latents, with those of the edits that are in S: the second half of `images`.

        Rows that ask for none of those cost nothing more.
        """
        wanted = self._strengths("s", edits)
        if not wanted:
            images: Tensor = generator(latents)
            return images
        styles = generator.styles(latents)
        for name, strengths in wanted:
            rows = [row for row, strength in enumerate(strengths) if strength]
            index = onto(latents.device, torch.tensor(rows, dtype=torch.int64))
            amount = onto(latents.device, torch.tensor([strengths[row] for row in rows]))[:, None]
            steps = self._vectors[name].to(latents).split([layer.shape[1] for layer in styles])
            for number in self._layers(name, steps):
                styles[number] = styles[number].index_add(0, index, amount * steps[number])
        return generator.synthesize(styles)

    def to(self, device: torch.device | str) -> Directions:
        """A copy whose vectors lie on `device`."""
        vectors = {name: v.to(device) for name, v in self._vectors.items()}
        return Directions(vectors, self._infos, generator_digest=self.generator_digest)

    def restyled(self, generator: Generator, edits: Sequence[Edit]) -> Generator:
        """The generator with those of the edits that are in S in every image; the same one where there are none."""
        wanted = self._strengths("s", [edits])
        if not wanted:
            return generator
        step = sum((strength * self._vectors[name] for name, (strength,) in wanted), torch.zeros(()))
        return cast(Generator, _Restyled(generator, step.to(generator.w_avg)))

    def _strengths(self, space: Space, edits: Sequence[Sequence[Edit]]) -> list[tuple[str, list[float]]]:
        """Of each direction of a space that a sample asks for, its strength in every sample; in the order of names."""
        strengths: dict[str, list[float]] = {}
        for sample, wanted in enumerate(edits):
            for edit in wanted:
                if self.info(edit.direction).space == space:
                    strengths.setdefault(edit.direction, [0.0] * len(edits))[sample] += edit.strength
        return sorted(strengths.items())

    def _layers(self, name: str, steps: Sequence[Tensor]) -> list[int]:
        """The layers of S that a direction moves."""
        if name not in self._moved:
            self._moved[name] = [number for number, step in enumerate(steps) if bool(step.any())]
        return self._moved[name]

    def _in(self, space: Space, name: str) -> Tensor:
        if self.info(name).space != space:
            raise InvalidEdit(
                f"direction {name!r} is a step of S, the style space, and codes move along W+; "
                "`legato directions style-space --space w+` finds the nearest step there"
                if space == "w+"
                else f"direction {name!r} is a step of W+; one of S, the style space, is wanted"
            )
        return self._vectors[name]

    def _check(self, name: str) -> None:
        if name not in self._vectors:
            known = ", ".join(self._vectors) or "none"
            raise InvalidEdit(f"no direction is named {name!r}; this model has: {known}")


class _Restyled:
    """A generator whose styles are all moved by a step [C] of S, as far as images are made with it."""

    def __init__(self, generator: Generator, step: Tensor) -> None:
        self._generator = generator
        self._step = step

    def styles(self, latents: Tensor) -> list[Tensor]:
        styles = self._generator.styles(latents)
        parts = self._step.split([layer.shape[1] for layer in styles])
        return [layer + part for layer, part in zip(styles, parts, strict=True)]

    def __call__(self, latents: Tensor, noise: Noise = "fixed") -> Tensor:
        return self._generator.synthesize(self.styles(latents), noise)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


def _space(step: Tensor) -> Space:
    """The space of a step. Raises ValueError for a tensor that is none."""
    if step.dim() not in (1, 2):
        raise ValueError(f"directions are [L, D] of W+ or [C] of S; got {list(step.shape)}")
    return "w+" if step.dim() == 2 else "s"


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
        {name: directions.step(name).cpu() for name in directions.names},
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
    path = resolve(path_or_name, FILE)
    if path.name == FILE and path.parent.is_dir() and not path.exists():
        raise ModelFileError(
            f"no model file at {path}: this model has no directions to edit along. Find some with: legato directions "
            f"sefa --model {path.parent} --out {path}"
        )
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
