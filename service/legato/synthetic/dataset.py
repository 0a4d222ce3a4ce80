"""Renders kept on disk: shards of uint8 images with their eye and mouth masks, made once, read through memory maps."""

from __future__ import annotations

import os
from collections.abc import Callable
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
                 progress: Callable[[int], None] = lambda n: None) -> None:  # fmt: skip
    """Renders the given shards (seeds shard * 512 ..) that are not there yet; a killed run goes on where it was."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shards:
        target = folder / f"{split}-{shard:05d}.npz"
        if not target.exists():
            seeds = range(shard * SHARD, (shard + 1) * SHARD)
            batches = [renderer(sample_z(seeds[i : i + _BATCH], split)) for i in range(0, SHARD, _BATCH)]
            images = torch.cat([to_uint8(b.image) for b in batches]).cpu().numpy()
            masks = torch.cat([_masks(b) for b in batches]).cpu().numpy()
            partial = target.with_suffix(".tmp")
            with partial.open("wb") as file:
                np.savez(file, images=images, masks=masks)
            os.replace(partial, target)
        progress(SHARD)


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
    """All shards of a split that are in the folder now. Raises FileNotFoundError when there is none."""
    files = sorted(folder.glob(f"{split}-*.npz"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no {split}-*.npz; make them with: legato render --dataset {folder} --split {split}"
        )
    parts = [np.load(file) for file in files]
    numbers = [int(file.stem.split("-")[1]) for file in files]
    seeds = np.concatenate([np.arange(n * SHARD, (n + 1) * SHARD) for n in numbers])
    return Heads(np.concatenate([p["images"] for p in parts]), np.concatenate([p["masks"] for p in parts]), seeds)
