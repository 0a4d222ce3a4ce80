"""What the trainings' command lines share: numbers in their ranges, and the images that --data names."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
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


def count(text: str) -> int:
    """A whole number of at least 1."""
    return int(_number(text, int, 1, math.inf, "a whole number of at least 1"))


def seed(text: str) -> int:
    """A whole number from 0 to 2^31 - 1."""
    return int(_number(text, int, 0, 2**31 - 1, "a whole number from 0 to 2^31 - 1"))


def amount(text: str) -> float:
    """A finite number of at least 0."""
    return _number(text, float, 0, sys.float_info.max, "a number of at least 0")


def _number(text: str, kind: type[int] | type[float], least: float, most: float, wanted: str) -> float:
    with contextlib.suppress(ValueError):
        if least <= kind(text) <= most:
            return kind(text)
    raise argparse.ArgumentTypeError(f"{wanted} is wanted; got {text!r}")
