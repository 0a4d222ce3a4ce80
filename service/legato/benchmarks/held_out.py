"""What the engine's benchmarks feed it with: held-out renders, the model's own clip, its first direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from torch import Tensor

from legato.answering import to_pixels
from legato.evaluation.rendered import rendered_frames
from legato.models.files import resolve
from legato.offline import find, read
from legato.pipeline import Pipeline
from legato.synthetic.renderer import Renderer
from legato.types import Frame

Tell = Callable[[str, int, int], object]  # what, done, of so many
DRAWN = 32  # frames of a model that brings no clip


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A clip that no training saw."""

    images: Tensor  # [T, 3, R, R] in [-1, 1], whole levels of 255
    frames: list[Frame]  # the same


def held_out(resolution: int, cache: Path, *, clips: int, frames: int, fps: float, tell: Tell) -> list[HeldOut]:
    """Rendered clips of the split "eval", one a head, kept in `cache`. Raises ConfigError where that is no folder."""
    with torch.no_grad():
        drawn = rendered_frames(
            Renderer(resolution),
            cache,
            clips=clips,
            frames=frames,
            fps=fps,
            progress=lambda done, total: tell(f"render {fps:g} frames/s", done, total),
        )
    return [HeldOut(images, [Frame(pixels) for pixels in to_pixels(images)]) for images in drawn]


def change_error(shown: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]], real: HeldOut) -> float:
    """dT: mean |(y_t - y_(t-1)) - (x_t - x_(t-1))| in [-1, 1] of pictures uint8 [R, R, 3], as viewers see them."""
    if len(shown) < 2:
        return 0.0
    y = np.stack(shown).astype(np.float32)
    x = np.stack([frame.pixels for frame in real.frames]).astype(np.float32)
    return float(np.abs(np.diff(y - x, axis=0)).mean() / 127.5)


def clip_file(model: str) -> Path | None:
    """The clip that lies in the model's folder. Raises ModelFileError where there is no such model."""
    path = resolve(model, "clip.mp4")
    return path if path.is_file() and path.suffix == ".mp4" else None


def own_clip(model: str, pipeline: Pipeline) -> list[Frame]:
    """The clip that lies in the model's folder, letterboxed; where there is none, a walk that the generator draws.

    Raises ConfigError without PyAV.
    """
    if (clip := clip_file(model)) is not None:
        return [Frame(pixels) for pixels in read(find([clip])[0], pipeline.resolution).frames]
    generator = pipeline.generator
    with torch.no_grad():
        z = torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(0)).to(pipeline.device)
        ends = generator.map(z, 0.7)
        parts = [0.5 - 0.5 * math.cos(2 * math.pi * n / DRAWN) for n in range(DRAWN)]
        drawn = [to_pixels(generator(torch.lerp(ends[:1], ends[1:], part)))[0] for part in parts]
    return [Frame(pixels) for pixels in drawn]


@contextmanager
def written(frames: Sequence[Frame]) -> Iterator[Path]:
    """A folder of PNG files, for a process that is to send them."""
    with TemporaryDirectory(prefix="legato-bench-") as folder:
        for number, frame in enumerate(frames):
            cv2.imwrite(f"{folder}/{number:05d}.png", frame.pixels[..., ::-1])
        yield Path(folder)
