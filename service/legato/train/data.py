"""What trainings learn from: the shards of `legato render --dataset`, or any folder of images, as one kind of set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from legato.errors import ConfigError
from legato.synthetic.dataset import Heads, read_shards
from legato.synthetic.factors import Split

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
HELD_OUT_EVERY = 20  # of a folder of images, every twentieth is held out

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Data:
    """Where a training's images come from. Both raise ConfigError where there are none."""

    train: Callable[[], Heads]  # may give more when called again: renders are made while the training runs
    held_out: Callable[[], Heads]
    rendered: bool


def open_data(
    folder: Path,
    resolution: int,
    cache: Path,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> Data:
    """The images in `folder`, at `resolution`.

    A folder with shards is what `legato render --dataset` made, with masks of eyes and mouth. Any other is searched
    for image files, which are cropped to their central square, resized, and kept decoded below `cache`; `progress`
    wraps the files to decode. Their masks are empty. Raises ConfigError.
    """
    command = f"legato render --dataset {folder} --images 20000 --resolution {resolution}"
    if not folder.is_dir():
        raise ConfigError(
            f"--data names a folder of images, or of renders; there is no folder {folder}. Make renders with: {command}"
        )
    if any(folder.glob("train-*.npz")) or any(folder.glob("eval-*.npz")):
        return Data(_Renders(folder, "train", resolution), _Renders(folder, "eval", resolution), True)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise ConfigError(
            f"{folder} holds {'one image' if files else 'neither renders nor images'}, and a training needs at least "
            f"two ({', '.join(sorted(SUFFIXES))}). Make renders with: {command}"
        )
    held_out = files[::HELD_OUT_EVERY]
    train = sorted(set(files) - set(held_out))
    sets = [_decoded(part, resolution, cache, progress) for part in (train, held_out)]
    return Data(lambda: sets[0], lambda: sets[1], False)


class _Renders:
    """The renders of a split: read when first asked for, and again only when there are more."""

    def __init__(self, folder: Path, split: Split, resolution: int) -> None:
        self._arguments = folder, split, resolution
        self._shards: list[Path] = []
        self._heads: Heads | None = None

    def __call__(self) -> Heads:
        folder, split, _ = self._arguments
        shards = sorted(folder.glob(f"{split}-*.npz"))
        if self._heads is None or shards != self._shards:
            self._heads, self._shards = _read(*self._arguments), shards
        return self._heads


def _read(folder: Path, split: Split, resolution: int) -> Heads:
    try:
        heads = read_shards(folder, split)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(str(error)) from error
    found = heads.images.shape[2]
    if found == resolution:
        return heads
    if found % resolution:
        raise ConfigError(
            f"the renders in {folder} are {found} pixels wide, from which {resolution} cannot be made. Take a "
            f"resolution that divides {found}, or make others with: legato render --dataset FOLDER --images N "
            f"--resolution {resolution}"
        )
    factor = found // resolution
    return Heads(_reduced(heads.images, factor), _reduced(heads.masks, factor), heads.seeds)


def _reduced(images: Image, factor: int) -> Image:
    """[N, C, H, W] -> [N, C, H/factor, W/factor], the mean of each block, rounded."""
    count, channels, height, width = images.shape
    reduced = np.empty((count, channels, height // factor, width // factor), np.uint8)
    for i in range(0, count, 256):
        blocks = images[i : i + 256].reshape(-1, channels, height // factor, factor, width // factor, factor)
        reduced[i : i + 256] = np.rint(blocks.mean((3, 5), dtype=np.float32)).astype(np.uint8)
    return reduced


def _decoded(
    files: list[Path], resolution: int, cache: Path, progress: Callable[[Iterable[Path]], Iterable[Path]]
) -> Heads:
    """All files as one array on disk, made once for this list of files, their sizes and times."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr((resolution, stats)).encode()).hexdigest()[:16]
    target = cache / f"images-{key}.npy"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        array = open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(files), 3, resolution, resolution))
        damaged = []
        for i, path in enumerate(progress(files)):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                damaged.append(path)
            else:
                array[i] = _square(image, resolution)[:, :, ::-1].transpose(2, 0, 1)
        array.flush()
        if damaged:
            partial.unlink()
            names = ", ".join(map(str, damaged[:3])) + (" ..." if len(damaged) > 3 else "")
            raise ConfigError(
                f"{len(damaged)} of {len(files)} files are no images that OpenCV can decode: {names}. Remove them"
            )
        os.replace(partial, target)
    images = np.asarray(np.load(target, mmap_mode="r"))
    masks = np.broadcast_to(np.zeros((), np.uint8), (len(files), 2, resolution // 2, resolution // 2))
    return Heads(images, masks, np.arange(len(files)))


def _square(image: NDArray[Any], resolution: int) -> Image:
    """The central square of [H, W, 3], at [resolution, resolution, 3]."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side >= resolution else cv2.INTER_CUBIC
    return cv2.resize(square, (resolution, resolution), interpolation=method).astype(np.uint8, copy=False)
