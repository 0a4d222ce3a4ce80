"""Edits of codes that were found: what is written for each, and the sheet that shows them side by side.

Every edit gives codes again, in a file like latents.npz, so that edits follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legato.editing.directions import Directions, layer_mask
from legato.editing.transfer import steps_of, transfer
from legato.errors import InvalidEdit, InvalidInput
from legato.inversion.in_domain import interpolate, mix_styles
from legato.inversion.methods import InvertedClip
from legato.models import Generator
from legato.offline.codes import Codes, save_codes
from legato.offline.inverting import pixels
from legato.offline.sheets import labeled, spread
from legato.offline.writing import write_frames, write_png
from legato.types import Edit

Layers = Sequence[int] | None  # of W+; None: all


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """Rows of codes that a picture shows, frame by frame."""

    name: str
    rows: tuple[tuple[str, Codes], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Edited:
    """What an edit made: codes by the names of their files, and the sheet that compares them."""

    results: tuple[tuple[str, Codes], ...]
    sheet: Sheet


@dataclass(frozen=True, slots=True)
class Sweep:
    """One direction at several strengths, from the first to the last."""

    direction: str
    first: float
    last: float
    count: int

    @property
    def edits(self) -> list[Edit]:
        return [Edit(self.direction, float(x)) for x in np.linspace(self.first, self.last, self.count)]


def edit(codes: Codes, directions: Directions, edits: Sequence[Edit], layers: Layers = None) -> Edited:
    """All of `edits` at once. Raises InvalidEdit on a direction or layer that is not there."""
    label = ", ".join(f"{each.direction} {each.strength:+g}" for each in edits)
    found = _moved(codes, directions, edits, layers)
    return Edited((("edited", found),), Sheet("edited", (("reconstruction", codes), (label, found))))


def sweep(codes: Codes, directions: Directions, wanted: Sweep, layers: Layers = None) -> Edited:
    """One direction at each strength for itself. Raises InvalidEdit."""
    name = wanted.direction
    found = [(each.strength, _moved(codes, directions, [each], layers)) for each in wanted.edits]
    rows = (("reconstruction", codes), *((f"{name} {strength:+.3g}", result) for strength, result in found))
    results = tuple((f"{name}_sweep/{name}{strength:+.3g}", result) for strength, result in found)
    return Edited(results, Sheet(f"{name}_sweep", rows))


def mix(codes: Codes, style: Codes, layers: Sequence[int]) -> Edited:
    """The codes with some layers of another's: of its one image for all frames, or frame by frame.

    Raises InvalidInput where the frames do not fit together, and for codes of multi_code.
    """
    content, other = _plain(codes), _plain(style)
    if len(other) not in (1, len(content)):
        raise InvalidInput(
            f"a style has one frame or as many as {codes.name}, {len(content)}; {style.name} has {len(other)}"
        )
    try:
        latents = mix_styles(content, other.expand_as(content), layers)
    except InvalidInput as error:
        raise InvalidInput(f"--layers: {error}") from error
    found = _with(codes, latents)
    rows = (("content", codes), (f"style: {style.name}", style), (f"layers {_named(layers)} mixed", found))
    return Edited((("mixed", found),), Sheet("mixed", rows))


def between(codes: Codes, other: Codes, count: int) -> Edited:
    """The way from the first frame of one to the first of another, in `count` + 2 images. Raises InvalidInput."""
    latents = interpolate(_plain(codes)[0], _plain(other)[0], count)
    labels = tuple(f"{number:03d}" for number in range(len(latents)))
    clip = InvertedClip(latents, tuple(range(len(latents))))
    found = replace(codes, kind="sequence", labels=labels, timing=None, clip=clip, method="interpolate")
    row = (f"{codes.name} to {other.name}", found)
    return Edited((("interpolated", found),), Sheet("interpolated", (row,)))


def move_as(codes: Codes, clip: Codes, strength: float, layers: Layers = None) -> Edited:
    """The first frame of `codes`, moving as another clip did: its steps on this code (Xu et al. 2021).

    The result has the clip's length and times. Raises InvalidInput for a clip of one frame.
    """
    driver = _plain(clip)
    if len(driver) < 2:
        raise InvalidInput(f"a transfer takes the steps between frames, and {clip.name} has a single one; give a clip")
    start = _plain(codes)[0]
    latents = transfer(start, steps_of(driver), strength=strength, layers=_checked(layers, len(start)))
    frames = tuple(range(len(latents)))
    found = replace(clip, name=codes.name, clip=InvertedClip(latents, frames), method="transfer")
    still = replace(found, clip=InvertedClip(start.expand_as(latents).contiguous(), frames))
    rows = ((f"steps of {clip.name}", clip), (codes.name, still), (f"{codes.name}, moved", found))
    return Edited((("transferred", found),), Sheet("transferred", rows))


def write_edited(folder: Path, edited: Edited, generator: Generator) -> list[str]:
    """Writes pictures and codes of every result, and the sheet; gives their names. Raises ConfigError."""
    names = []
    for name, codes in edited.results:
        save_codes(folder / f"{name}.npz", codes)
        written = write_frames(folder, name, shown(codes, generator), codes)
        names += [f"{name}.npz", written.relative_to(folder).as_posix()]
    sheet = edited.sheet
    write_png(folder / f"{sheet.name}_sheet.png", _drawn(sheet, generator))
    return [*names, f"{sheet.name}_sheet.png"]


def shown(codes: Codes, generator: Generator, frames: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """uint8 [T, R, R, 3] of the codes' frames, or of some of them; a frame without code shows the nearest."""
    rows = codes.held if frames is None else [codes.held[frame] for frame in frames]
    needed = sorted(set(rows))
    images = pixels(_rows(codes.clip, needed).images(generator))
    return images[[needed.index(row) for row in rows]]


def _drawn(sheet: Sheet, generator: Generator) -> NDArray[np.uint8]:
    count = max(len(codes.labels) for _, codes in sheet.rows)
    columns = spread(count)
    labels = next(codes.labels for _, codes in sheet.rows if len(codes.labels) == count)
    rows = []
    for name, codes in sheet.rows:
        last = len(codes.labels) - 1  # a single image stands in every column
        rows.append((name, shown(codes, generator, [min(column, last) for column in columns])))
    return labeled(rows, [labels[column] for column in columns])


def _moved(codes: Codes, directions: Directions, edits: Sequence[Edit], layers: Layers) -> Codes:
    clip = codes.clip
    move = directions.edit(torch.zeros_like(clip.latents[:1]), [edits])[0]
    move = move * layer_mask(len(move), _checked(layers, len(move))).to(move)
    composition = clip.composition.moved(move) if clip.composition is not None else None
    return replace(codes, clip=replace(clip, latents=clip.latents + move, composition=composition))


def _plain(codes: Codes) -> Tensor:
    """The code of every frame: [T, L, D]."""
    if codes.clip.composition is not None:
        raise InvalidInput(
            f"{codes.name} was inverted by multi_code: many codes make its picture, and only --edit and --sweep move "
            "them. Invert it by another method"
        )
    return codes.clip.latents[codes.held]


def _with(codes: Codes, latents: Tensor) -> Codes:
    """Codes [T, L, D] of all frames in the place of those that were there."""
    noise = tuple(maps[codes.held] for maps in codes.clip.noise)
    return replace(codes, clip=InvertedClip(latents, tuple(range(len(latents))), noise=noise))


def _rows(clip: InvertedClip, rows: Sequence[int]) -> InvertedClip:
    """Some rows of an inverted clip."""
    index = torch.as_tensor(rows, device=clip.latents.device)
    several = clip.composition
    if several is not None:
        parts = {name: getattr(several, name)[index] for name in ("codes", "importances", "tail")}
        several = replace(several, **parts)
    noise = tuple(maps[index] for maps in clip.noise)
    return InvertedClip(clip.latents[index], tuple(clip.frames[row] for row in rows), several, noise)


def _checked(layers: Layers, count: int) -> Layers:
    if layers is not None and not set(layers) <= set(range(count)):
        raise InvalidEdit(f"--layers: layers are 0..{count - 1}; got {_named(layers)}")
    return layers


def _named(layers: Sequence[int]) -> str:
    whole = list(range(min(layers), max(layers) + 1))
    return f"{whole[0]}-{whole[-1]}" if sorted(layers) == whole and len(whole) > 1 else ",".join(map(str, layers))
