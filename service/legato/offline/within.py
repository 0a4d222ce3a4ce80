"""Edits inside a region of the picture alone, by Style Intervention (Liu et al. 2020): pictures, no codes of W+."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from legato.editing.directions import Directions, layer_mask
from legato.editing.style_intervention import InterventionOptions, intervene_along
from legato.errors import InvalidInput
from legato.models import Generator
from legato.offline.codes import Codes
from legato.offline.inverting import pixels
from legato.offline.sheets import labeled, spread
from legato.offline.writing import write_frames, write_png
from legato.types import Edit


def edit_within(
    codes: Codes,
    directions: Directions,
    edits: Sequence[Edit],
    region: Tensor,  # [1, 1, R, R], 1 where the picture may change
    layers: Sequence[int] | None,
    generator: Generator,
    folder: Path,
    options: InterventionOptions | None = None,
) -> list[str]:
    """All of `edits` at once, in the region; writes `within` and its sheet, and gives their names.

    Raises InvalidInput for codes of multi_code, with free noise maps, or of another region than the picture's.
    """
    clip = codes.clip
    if clip.composition is not None or clip.noise:
        raise InvalidInput(
            f"{codes.name}: its picture is not made of one code a frame (multi_code, or free noise maps), and --within "
            "finds its changes in the styles of one. Invert it by another method"
        )
    latents = clip.latents[codes.held]
    move = directions.edit(torch.zeros_like(latents[:1]), [edits])[0]
    move = move * layer_mask(len(move), layers).to(move)
    with tqdm(desc=f"{codes.name}: within", unit="step", disable=None) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        made = intervene_along(generator, latents, move, 1.0, region, options=options, on_step=tell)
    images = pixels(made.clamp(-1, 1))
    columns = spread(len(images))
    written = write_frames(folder, "within", images, codes)
    label = ", ".join(f"{each.direction} {each.strength:+g}" for each in edits)
    shown = [(name, _drawn(generator, each[columns])) for name, each in _plain(latents, move, label)]
    outlined = np.where(_edge(region), np.uint8(255), shown[0][1])
    rows = [shown[0], ("region", outlined), shown[1], (f"{label}, within", images[columns])]
    write_png(folder / "within_sheet.png", labeled(rows, [codes.labels[column] for column in columns]))
    return [written.name, "within_sheet.png"]


def _plain(latents: Tensor, move: Tensor, label: str) -> list[tuple[str, Tensor]]:
    return [("reconstruction", latents), (label, latents + move)]


@torch.no_grad()
def _drawn(generator: Generator, latents: Tensor) -> NDArray[np.uint8]:
    return pixels(torch.cat([generator(part) for part in latents.split(16)]).clamp(-1, 1))


def _edge(region: Tensor) -> NDArray[np.bool_]:
    """The border of a region [1, 1, R, R]: [R, R, 1]."""
    inside = region[0, 0] > 0
    core = -torch.nn.functional.max_pool2d(-region, 3, 1, 1)[0, 0] > 0
    return (inside & ~core).cpu().numpy()[..., None]
