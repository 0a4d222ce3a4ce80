"""Networks of a few channels, pictures of a few blobs, and a comparison of trainings to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from legato.models.encoder import EncoderConfig
from legato.models.generator import GeneratorConfig
from legato.synthetic.dataset import SHARD, Heads
from legato.train.training import Training

GENERATOR_16 = GeneratorConfig(16, 8, 8, 2, channel_base=128, channel_max=8)
GENERATOR_64 = GeneratorConfig(64, 64, 16, 2, channel_base=128, channel_max=8)
ENCODER_64 = EncoderConfig(64, 10, 16, channel_base=128, channel_max=8, pyramid_channels=6)


def pictures(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth random pictures uint8 [N, 3, R, R]."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear") * 64 + 128
    values: NDArray[np.uint8] = smooth.clamp(0, 255).to(torch.uint8).numpy()
    return values


def heads(count: int, size: int, seed: int = 0) -> Heads:
    """Such pictures as a set of renders, with eyes in the upper half and a mouth in the lower one."""
    masks = np.zeros((count, 2, size // 2, size // 2), np.uint8)
    masks[:, 0, size // 8 : size // 6] = masks[:, 1, size // 3 : size // 3 + 2] = 255
    return Heads(pictures(count, size, seed), masks, np.arange(count))


def write_shard(folder: Path, name: str, size: int, seed: int = 0) -> None:
    """One shard as the renderer writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    data = heads(SHARD, size, seed)
    np.savez(folder / f"{name}.npz", images=data.images, masks=data.masks)


def checkpoint(folder: Path) -> Any:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def same_bits(a: Any, b: Any) -> bool:
    """Whether two checkpoints hold the same values, to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b, strict=True))
    return bool(torch.equal(a, b)) if isinstance(a, torch.Tensor) else bool(a == b)


class Killed(Exception):
    """Ends a training as a kill would: between two steps, without a word."""


def kill_after(steps: int) -> Callable[[int, object], None]:
    """A progress function that does so after the given number of steps, before the step is saved."""
    seen = 0

    def progress(batch: int, values: object) -> None:
        nonlocal seen
        seen += 1
        if seen == steps:
            raise Killed

    return progress


def assert_resumes_to_the_bit(make: Callable[[Path], Training], folder: Path, steps: int) -> None:
    """Run through, and run killed after `steps` and made again: the checkpoints have to be the same.

    `make` gives a training that saves after every step.
    """
    through = make(folder / "through")
    assert through.run()
    broken = make(folder / "broken")
    try:
        broken.run(kill_after(steps))
    except Killed:
        again = make(folder / "broken")
        assert again.steps == steps - 1
        assert again.run()
    assert same_bits(checkpoint(folder / "through"), checkpoint(folder / "broken"))
    assert (through.images, through.steps) == (again.images, again.steps)
