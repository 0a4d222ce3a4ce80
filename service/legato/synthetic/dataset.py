"""Renders kept on disk: shards of uint8 images with their eye and mouth masks, made once, read into memory."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from legato.synthetic.factors import Split, sample_z
from legato.synthetic.renderer import Rendered, Renderer

SHARD = 512
_BATCH = 16
Draw = Callable[[Sequence[int], Split], Tensor]  # seeds, split -> z [B, 64]


def to_uint8(image: Tensor) -> Tensor:
    """[-1, 1] -> uint8, rounded."""
    return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(image: Tensor) -> Tensor:
    """uint8 -> float32 [-1, 1]."""
    return image.float() / 127.5 - 1


def _masks(rendered: Rendered) -> Tensor:
    """Eyes and mouth at half size, uint8 [B, 2, R/2, R/2]."""
    return (F.avg_pool2d(torch.cat([rendered.eyes, rendered.mouth], 1), 2) * 255).round().to(torch.uint8)


def write_shards(folder: Path, shards: range, renderer: Renderer, split: Split = "train",
                 progress: Callable[[int], object] = lambda n: None, *, draw: Draw = sample_z) -> None:  # fmt: skip
    """Renders the given shards (seeds shard * 512 ..) that are not there yet; a killed run goes on where it was.

    `draw(seeds, split)` gives the factors of the images. `progress` is told of images as they are done, or found done.
    Raises ValueError for a shard that is there already and is damaged or of another resolution, before anything is
    rendered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = {shard: folder / f"{split}-{shard:05d}.npz" for shard in shards}
    for target in targets.values():
        if target.exists() and (found := _shape(target)[-1]) != renderer.resolution:
            raise ValueError(f"{target} is of {found} pixels; take another folder for {renderer.resolution} pixels")
    for shard, target in targets.items():
        if target.exists():
            progress(SHARD)
            continue
        seeds = range(shard * SHARD, (shard + 1) * SHARD)
        images, masks = [], []
        for i in range(0, SHARD, _BATCH):
            rendered = renderer(draw(seeds[i : i + _BATCH], split))
            images.append(to_uint8(rendered.image).cpu())
            masks.append(_masks(rendered).cpu())
            progress(len(images[-1]))
        partial = target.with_suffix(".tmp")
        with partial.open("wb") as file:
            np.savez(file, images=torch.cat(images).numpy(), masks=torch.cat(masks).numpy())
        os.replace(partial, target)


def _shape(shard: Path) -> tuple[int, ...]:
    """The shape of a shard's images, from its header. Raises ValueError for a file that is no shard."""
    try:
        with zipfile.ZipFile(shard) as members, members.open("images.npy") as file:
            np.lib.format.read_magic(file)
            shape: tuple[int, ...] = np.lib.format.read_array_header_1_0(file)[0]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{shard} is damaged or no shard of renders ({error}); delete it and render it anew") from None
    return shape


@dataclass(frozen=True)
class Heads:
    """A set of renders in memory: images uint8 [N, 3, R, R], masks uint8 [N, 2, R/2, R/2], seeds in order."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    seeds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Images [B, 3, R, R] in [-1, 1] and masks [B, 2, R/2, R/2] in [0, 1]."""
        i = index.numpy()
        images = from_uint8(torch.from_numpy(self.images[i]).to(device))
        return images, torch.from_numpy(self.masks[i]).to(device).float() / 255


def read_shards(folder: Path, split: Split = "train") -> Heads:
    """All shards of a split that are in the folder now.

    Raises FileNotFoundError when there is none, ValueError for one that is damaged or of another resolution.
    """
    files = sorted(folder.glob(f"{split}-*.npz"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no {split}-*.npz; make them with: legato render --dataset {folder} --split {split}"
        )
    shapes = [_shape(file) for file in files]
    if len({shape[1:] for shape in shapes}) > 1:
        raise ValueError(f"{folder} holds renders of several resolutions: {sorted({shape[-1] for shape in shapes})}")
    count, side = sum(shape[0] for shape in shapes), shapes[0][-1]
    images = np.empty((count, 3, side, side), np.uint8)
    masks = np.empty((count, 2, side // 2, side // 2), np.uint8)
    seeds = np.empty(count, np.int64)
    start = 0
    for file, shape in zip(files, shapes, strict=True):
        rows = slice(start, start + shape[0])
        with np.load(file) as shard:
            images[rows], masks[rows] = shard["images"], shard["masks"]
        seeds[rows] = int(file.stem.split("-")[1]) * SHARD + np.arange(shape[0])
        start += shape[0]
    return Heads(images, masks, seeds)
