"""What trainings learn from: shards of `legato render --dataset`, a folder of images, or a clip, as one kind of set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from legato.errors import ConfigError
from legato.images import Pixels, crop
from legato.offline.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from legato.synthetic.dataset import Heads, read_shards
from legato.synthetic.factors import Split
from legato.train.frames import HoldOut, Square, decoded_clip, decoded_images


@dataclass(frozen=True, slots=True)
class Data:
    """Where a training's images come from. Both raise ConfigError where there are none."""

    train: Callable[[], Heads]  # may give more when called again: renders are made while the training runs
    held_out: Callable[[], Heads]
    rendered: bool


def open_data(
    source: Path,
    resolution: int,
    cache: Path,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
    *,
    hold_out: HoldOut | None = None,
    square: Square = crop,
) -> Data:
    """The images that `source` names, at `resolution`.

    A folder with shards is what `legato render --dataset` made, with masks of eyes and mouth. Any other is searched
    for image files; a video file is its frames. They are made square by `square` (their central square), resized, and
    kept decoded below `cache`; `progress` wraps the files to decode. Their masks are empty. What `hold_out` names, of
    images every twentieth and of a clip the last tenth where it is None, no training sees. Raises ConfigError.
    """
    command = f"legato render --dataset {source} --images 20000 --resolution {resolution}"
    if source.is_file() and source.suffix.lower() in VIDEO_SUFFIXES:
        frames = decoded_clip(source, resolution, cache, square)
        kept = _kept(hold_out or HoldOut(last=max(1, len(frames) // 10)), len(frames), source)
        sets = [Heads(frames.images[rows], frames.masks[rows], frames.seeds[rows]) for rows in (~kept, kept)]
        return Data(lambda: sets[0], lambda: sets[1], False)
    if not source.is_dir():
        raise ConfigError(
            f"--data names a folder of images or of renders, or a video ({', '.join(VIDEO_SUFFIXES)}); there is "
            f"none of them at {source}. Make renders with: {command}"
        )
    if any(source.glob("train-*.npz")) or any(source.glob("eval-*.npz")):
        if hold_out is not None:
            raise ConfigError("renders hold out their split `eval`; --hold-out belongs to images and clips")
        return Data(_Renders(source, "train", resolution), _Renders(source, "eval", resolution), True)
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(files) < 2:
        raise ConfigError(
            f"{source} holds {'one image' if files else 'neither renders nor images'}, and a training needs at least "
            f"two ({', '.join(sorted(IMAGE_SUFFIXES))}). Make renders with: {command}"
        )
    kept = _kept(hold_out or HoldOut(every=20), len(files), source)
    sets = [
        decoded_images([files[i] for i in np.flatnonzero(rows)], resolution, cache, square, progress)
        for rows in (~kept, kept)
    ]
    return Data(lambda: sets[0], lambda: sets[1], False)


def _kept(hold_out: HoldOut, count: int, source: Path) -> NDArray[np.bool_]:
    """True for those of `count` images that are held out. Raises ConfigError where nothing is left on either side."""
    kept = hold_out.of(count)
    if not 0 < kept.sum() < count:
        raise ConfigError(
            f"--hold-out {hold_out} keeps {int(kept.sum())} of the {count} images of {source} out of the training; "
            "leave at least one on either side"
        )
    return kept


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


def _reduced(images: Pixels, factor: int) -> Pixels:
    """[N, C, H, W] -> [N, C, H/factor, W/factor], the mean of each block, rounded."""
    count, channels, height, width = images.shape
    reduced = np.empty((count, channels, height // factor, width // factor), np.uint8)
    for i in range(0, count, 256):
        blocks = images[i : i + 256].reshape(-1, channels, height // factor, factor, width // factor, factor)
        reduced[i : i + 256] = np.rint(blocks.mean((3, 5), dtype=np.float32)).astype(np.uint8)
    return reduced
