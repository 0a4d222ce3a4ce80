"""Images and clips as arrays of squares on disk, decoded once, and which of them are held out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from legato.errors import ConfigError, InvalidImage
from legato.images import Pixels
from legato.offline.reading import video
from legato.synthetic.dataset import Heads

Square = Callable[[Pixels, int], Pixels]  # [H, W, 3] of any size -> [R, R, 3]


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Which images no training sees: the `last` ones, or `every` so manieth, the first one among them."""

    last: int = 0
    every: int = 0

    def of(self, count: int) -> NDArray[np.bool_]:
        """True for the images held out of `count`."""
        index = np.arange(count)
        return index >= count - self.last if self.last else index % self.every == 0

    def __str__(self) -> str:
        return f"last:{self.last}" if self.last else f"{1 / self.every:g}"


def decoded_images(
    files: list[Path],
    resolution: int,
    cache: Path,
    square: Square,
    progress: Callable[[Iterable[Path]], Iterable[Path]],
) -> Heads:
    """All files as one array on disk, made once for this list of files, their sizes and times. Raises ConfigError."""
    with _kept(cache, files, resolution, square) as (target, make):
        if make is not None:
            array = open_memmap(make, mode="w+", dtype=np.uint8, shape=(len(files), 3, resolution, resolution))
            damaged = []
            for i, path in enumerate(progress(files)):
                image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
                if image is None:
                    damaged.append(path)
                else:
                    array[i] = square(np.asarray(image, np.uint8), resolution).transpose(2, 0, 1)
            array.flush()
            if damaged:
                names = ", ".join(map(str, damaged[:3])) + (" ..." if len(damaged) > 3 else "")
                raise ConfigError(
                    f"{len(damaged)} of {len(files)} files are no images that OpenCV can decode: {names}. Remove them"
                )
    return _heads(target)


def decoded_clip(path: Path, resolution: int, cache: Path, square: Square) -> Heads:
    """The frames of a video as one array on disk, likewise. Raises ConfigError."""
    with _kept(cache, [path], resolution, square) as (target, make):
        if make is not None:
            try:
                frames = [square(frame, resolution).transpose(2, 0, 1) for frame in video().each_frame(path)]
            except InvalidImage as error:
                raise ConfigError(str(error)) from error
            if len(frames) < 2:
                raise ConfigError(f"{path} holds {len(frames)} frames, and a training needs at least two")
            with make.open("wb") as file:
                np.save(file, np.stack(frames))
    return _heads(target)


@contextmanager
def _kept(cache: Path, files: list[Path], resolution: int, square: Square) -> Iterator[tuple[Path, Path | None]]:
    """The array's file, and the one to write first where there is none yet, renamed when all went well."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr((resolution, square.__name__, stats)).encode()).hexdigest()[:16]
    target = cache / f"images-{key}.npy"
    if target.exists():
        yield target, None
        return
    cache.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    try:
        yield target, partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _heads(path: Path) -> Heads:
    images = np.asarray(np.load(path, mmap_mode="r"))
    side = images.shape[2] // 2
    masks = np.broadcast_to(np.zeros((), np.uint8), (len(images), 2, side, side))
    return Heads(images, masks, np.arange(len(images)))
