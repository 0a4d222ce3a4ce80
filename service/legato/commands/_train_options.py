"""What the trainings' command lines share: the images that --data names."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from legato.images import crop, fit

if TYPE_CHECKING:
    from legato.train.data import Data
    from legato.train.frames import HoldOut, Square
    from legato.train.training import Training

Started = tuple["Training", Callable[[], Path]]  # and what exports it, telling where to


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Which of the images of --data are kept out, and their shape."""
    add = parser.add_argument
    add(
        "--hold-out",
        metavar="last:N|X",
        type=hold_out,
        help="images that are measured and never trained on: the last N, or a share X, evenly spread (default: of a "
        "video the last tenth, of images 0.05)",
    )
    add(
        "--square",
        choices=("crop", "letterbox"),
        default="crop",
        help="of images of another shape: their central square, or all of it between black bars, which is what the "
        "server makes of them (default: %(default)s)",
    )


def open_shaped(folder: Path, args: argparse.Namespace, resolution: int) -> Data:
    """As open_images, by the options of `add_shape`; decoded images are kept in --out."""
    square = crop if args.square == "crop" else fit
    return open_images(folder, args.out, resolution, hold_out=args.hold_out, square=square)


def open_images(
    folder: Path, out: Path, resolution: int, *, hold_out: HoldOut | None = None, square: Square = crop
) -> Data:
    """As `train.data.open_data`, decoded images kept in `out`, with a progress bar."""
    from tqdm import tqdm

    from legato.train.data import open_data

    def progress(files: Iterable[Path]) -> Iterable[Path]:
        decoded: Iterable[Path] = tqdm(files, desc="decoding images", unit="img", leave=False, disable=None)
        return decoded

    return open_data(folder, resolution, out, progress, hold_out=hold_out, square=square)


def hold_out(text: str) -> HoldOut:
    """last:N, or a share above 0 and up to 0.5."""
    from legato.train.frames import HoldOut

    name, colon, last = text.partition(":")
    with contextlib.suppress(ValueError):
        if colon and name == "last" and int(last) > 0:
            return HoldOut(last=int(last))
        if not colon and 0 < float(text) <= 0.5:
            return HoldOut(every=round(1 / float(text)))
    raise argparse.ArgumentTypeError(f"last:N with N from 1 on, or a share from above 0 to 0.5; got {text!r}")
