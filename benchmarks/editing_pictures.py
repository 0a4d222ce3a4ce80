"""Pictures of the measurements of editing, for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.editing_heads import Bench
from benchmarks.editing_region import Case
from benchmarks.editing_transfer import Pair
from legato.offline.sheets import labeled
from legato.offline.writing import write_png
from legato.synthetic.dataset import to_uint8

GAIN = 4.0  # of difference images
LEVELS = 8  # of a color that are told apart as one: pictures in a repository are small

Images = NDArray[np.uint8]


def style_intervention(
    bench: Bench, pictures: Sequence[tuple[Case, Mapping[str, Tensor]]], heads: Mapping[str, int], path: Path
) -> None:
    """A column for each attribute, on one head each."""
    chosen = [(case, images["intervention"], heads[case.attribute]) for case, images in pictures]
    before = torch.stack([bench.before[head] for _, _, head in chosen])
    plain = torch.stack([case.plain[head] for case, _, head in chosen])
    kept = torch.stack([images[head] for _, images, head in chosen])
    region = torch.stack([case.region[head] for case, _, head in chosen])
    rows = {
        "inverted": before,
        "region": overlay(before, region),
        "plain edit": plain,
        "Style Intervention": kept,
        f"plain: change x{GAIN:g}": GAIN * (plain - before).abs() - 1,
        f"intervention: change x{GAIN:g}": GAIN * (kept - before).abs() - 1,
    }
    named = [f"{'+' if case.sign[head] > 0 else '-'} {case.attribute}".replace("_", " ") for case, _, head in chosen]
    save(rows, named, path)


def transfers(pairs: Sequence[Pair], chosen: Sequence[int], path: Path, frames: int = 7) -> None:
    """Two rows for each pair: the clip, and the other head that moves as it does."""
    rows = {}
    index = torch.linspace(0, len(pairs[0].source) - 1, frames).round().long()
    for number in chosen:
        pair = pairs[number]
        rows[f"clip {number}"] = pair.source[index]
        rows[f"its steps on head {number + len(pairs)}"] = pair.moved["per_layer"][index]
    save(rows, [f"frame {number}" for number in index.tolist()], path)


def overlay(images: Tensor, region: Tensor) -> Tensor:
    """The region in color, its outside dark."""
    dark = 0.5 * (images + 1) * 0.6 * 2 - 1
    edge = (F.max_pool2d(region, 3, 1, 1) - region).expand(-1, 3, -1, -1)
    mixed = torch.where(region.bool(), images, dark)
    return torch.where(edge.bool(), torch.tensor([1.0, 0.6, -1.0])[:, None, None], mixed)


def save(rows: Mapping[str, Tensor], columns: Sequence[str], path: Path) -> None:
    made = [(name, coarse(images)) for name, images in rows.items()]
    write_png(path, labeled(made, columns))


def coarse(images: Tensor) -> Images:
    """uint8 [N, R, R, 3] in steps of `LEVELS`."""
    pixels = to_uint8(images.clamp(-1, 1)).permute(0, 2, 3, 1).numpy()
    return ((pixels.astype(np.int32) + LEVELS // 2) // LEVELS * LEVELS).clip(0, 255).astype(np.uint8)
