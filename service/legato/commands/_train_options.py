"""What the trainings' command lines share: the images that --data names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from legato.train.data import Data
    from legato.train.training import Training

Started = tuple["Training", Callable[[], Path]]  # and what exports it, telling where to


def open_images(folder: Path, out: Path, resolution: int) -> Data:
    """As `train.data.open_data`, decoded images kept in `out`, with a progress bar."""
    from tqdm import tqdm

    from legato.train.data import open_data

    def progress(files: Iterable[Path]) -> Iterable[Path]:
        decoded: Iterable[Path] = tqdm(files, desc="decoding images", unit="img", leave=False, disable=None)
        return decoded

    return open_data(folder, resolution, out, progress)
