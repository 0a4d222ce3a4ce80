"""Pictures that a tiny model can make, in files, and the commands on them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from legato import cli
from legato.models import load_generator
from legato.offline.inverting import pixels
from legato.offline.reading import Timing
from legato.offline.video import write_video
from legato.offline.writing import write_png

TIMING = Timing(Fraction(25), Fraction(1, 1000), (0, 40, 80, 160, 200, 240))  # one frame is late
PLAIN = ("--threads", "1", "--device", "cpu", "--precision", "float32")


@torch.no_grad()
def frames(model: Path, count: int = 6, seed: int = 0) -> NDArray[np.uint8]:
    """[T, 64, 64, 3] of one scene that moves slowly."""
    generator = load_generator(model)
    draw = torch.Generator().manual_seed(seed)
    code, motion = torch.randn(2, 1, generator.num_layers, generator.config.w_dim, generator=draw)
    steps = torch.arange(count)[:, None, None] * 0.1
    return pixels(generator(code + motion * steps.sin()))


def write_clip(model: Path, path: Path) -> Path:
    """A video of six frames at the times of TIMING."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames(model), TIMING)
    return path


def write_folder(model: Path, folder: Path, count: int = 6, seed: int = 0) -> Path:
    """A folder with frame_8.png, frame_9.png, frame_10.png ..."""
    for number, image in enumerate(frames(model, count, seed), 8):
        write_png(folder / f"frame_{number}.png", image)
    return folder


def legato(*arguments: object) -> int:
    """Runs the command line; its exit code."""
    return cli.main([str(argument) for argument in arguments])


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr since the last time, in one line."""
    return " ".join(capsys.readouterr().err.split())
