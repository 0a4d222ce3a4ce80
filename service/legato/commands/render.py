"""`legato render`: picture sheets, clips and data sets of rendered heads."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from legato.commands._numbers import count, whole
from legato.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from legato.synthetic.factors import Split
    from legato.synthetic.renderer import Renderer

EPILOG = """
A head follows from its split and number, a clip from those and --motion: the same command gives the same pictures.
No head of the split "train" is in "eval".
With --flow, OUT.npz (in a folder, flow.npz) holds for each frame but the first `flow` [T-1, 2, R, R] float32, the exact
pull flow from the frame before (previous(p + flow(p)) ~ current(p), pixels, x before y), and `visible` [T-1, 1, R, R].
A data set comes in shards of 512 images; the command goes on where a killed one stopped. With --runs, heads move from
one image to the next, four images each, by 0.04 to 0.8 seconds; take a folder of their own.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`render`, with one output of three."""
    parser = subparsers.add_parser(
        "render",
        help="render heads: a sheet, a clip or a data set",
        description="Renders heads with known attributes and exact flow: a picture sheet, a clip or a data set.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument("--sheet", metavar="OUT.png", type=Path, help="many heads in one picture")
    output.add_argument(
        "--clip", metavar="OUT", type=Path, help="a moving head: a video (.mp4, PyAV) or a folder of PNG"
    )
    output.add_argument("--dataset", metavar="FOLDER", type=Path, help="shards for training, with eye and mouth masks")

    heads = parser.add_argument_group("heads")
    heads.add_argument("--split", choices=("train", "eval"), help="(default: train with --dataset, otherwise eval)")
    heads.add_argument("--count", metavar="N", type=count, default=48, help="heads of a sheet (default: %(default)s)")
    heads.add_argument("--first", metavar="N", type=whole, default=0, help="its first head (default: %(default)s)")
    heads.add_argument("--columns", metavar="N", type=count, default=8, help="heads in a row (default: %(default)s)")
    heads.add_argument("--identity", metavar="N", type=whole, default=0, help="head of a clip (default: %(default)s)")
    heads.add_argument("--motion", metavar="N", type=whole, default=0, help="its motion (default: %(default)s)")
    heads.add_argument("--frames", metavar="N", type=count, default=150, help="its length (default: %(default)s)")
    heads.add_argument("--fps", metavar="X", type=_rate, default=25.0, help="frames a second (default: %(default)s)")
    heads.add_argument("--images", metavar="N", type=count, help="of a data set, rounded up to whole shards")
    heads.add_argument(
        "--runs", action="store_true", help="a data set in which every four images in a row show one moving head"
    )

    beside = parser.add_argument_group("beside the pictures")
    beside.add_argument("--attributes", metavar="OUT", type=Path, help="what the pictures show, as .csv or .json")
    beside.add_argument(
        "--flow", action="store_true", help="exact flow and visibility between a clip's frames, as .npz"
    )

    how = parser.add_argument_group("how")
    how.add_argument("--resolution", metavar="N", type=count, default=128, help="pixels a side (default: %(default)s)")
    how.add_argument(
        "--supersample", metavar="N", type=count, default=2, help="rays a pixel's side (default: %(default)s)"
    )
    how.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    how.add_argument(
        "--compiled", action="store_true", help="torch.compile: a minute first, then some six times as fast"
    )


def run(args: argparse.Namespace) -> int:
    """Renders. Raises ConfigError for options that do not go together and files that cannot be written."""
    _check(args)
    try:
        if args.sheet:
            _sheet(args)
        elif args.clip:
            _clip(args)
        else:
            _dataset(args)
    except OSError as error:
        target = error.filename or args.sheet or args.clip or args.dataset
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}") from error
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.flow and not args.clip:
        raise ConfigError("--flow is between the frames of a clip: give it with --clip")
    if args.dataset and args.images is None:
        raise ConfigError("--dataset needs --images N")
    if args.images is not None and not args.dataset:
        raise ConfigError("--images belongs to --dataset; a sheet has --count, a clip --frames")
    if args.runs and not args.dataset:
        raise ConfigError("--runs belongs to --dataset")
    if args.sheet and args.sheet.suffix.lower() != ".png":
        raise ConfigError(f"{args.sheet}: a sheet is a .png file")
    if args.attributes and args.attributes.suffix not in (".csv", ".json"):
        raise ConfigError(f"{args.attributes}: attributes are written as .csv or .json")


def _sheet(args: argparse.Namespace) -> None:
    import numpy as np

    from legato.synthetic.dataset import to_uint8
    from legato.synthetic.factors import attributes_of, sample_z
    from legato.synthetic.media import sheet, write_png

    renderer, split = _renderer(args), _split(args)
    seeds = range(args.first, args.first + args.count)
    z = sample_z(seeds, split)
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    images = np.empty((args.count, args.resolution, args.resolution, 3), np.uint8)
    with _bar(args.count, "head") as progress:
        for start in range(0, args.count, 8):
            batch = to_uint8(renderer(z[start : start + 8]).image).permute(0, 2, 3, 1).cpu()
            images[start : start + len(batch)] = batch.numpy()
            progress(len(batch))
    write_png(args.sheet, sheet(images, args.columns))
    _attributes(args.attributes, {"seed": list(seeds)}, attributes_of(z))
    print(f"{args.sheet}: {args.count} heads of the split {split!r}, from {args.first}, {args.resolution} pixels each")


def _clip(args: argparse.Namespace) -> None:
    import numpy as np

    from legato.synthetic.clips import clip_flow, render_clip
    from legato.synthetic.media import check_clip_path, write_clip

    check_clip_path(args.clip, args.frames)
    renderer, split = _renderer(args), _split(args)
    args.clip.parent.mkdir(parents=True, exist_ok=True)
    with _bar(args.frames, "frame") as progress:
        clip = render_clip(renderer, args.identity, args.motion, args.frames, split, fps=args.fps, progress=progress)
    write_clip(args.clip, clip.images, args.fps)
    index = range(args.frames)
    _attributes(args.attributes, {"frame": list(index), "time": [i / args.fps for i in index]}, clip.attributes)
    told = [f"{args.clip}: {args.frames} frames of head {args.identity} ({split}), {args.resolution} pixels"]
    if args.flow:
        with _bar(args.frames - 1, "flow") as progress:
            flow, visible = clip_flow(clip.z.to(args.device), args.resolution, progress=progress)
        target = args.clip / "flow.npz" if args.clip.is_dir() else args.clip.with_suffix(".npz")
        np.savez_compressed(target, flow=flow.cpu().numpy(), visible=visible.cpu().numpy())
        told.append(f"{target}: exact flow of each from the one before")
    print("\n".join(told))


def _dataset(args: argparse.Namespace) -> None:
    from legato.synthetic.clips import run_z
    from legato.synthetic.dataset import SHARD, write_shards
    from legato.synthetic.factors import attributes_of, sample_z

    renderer, split, draw = _renderer(args), _split(args), run_z if args.runs else sample_z
    shards = range(-(-args.images // SHARD))
    total = len(shards) * SHARD
    with _bar(total, "image") as progress:
        try:
            write_shards(args.dataset, shards, renderer, split, progress, draw=draw)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if args.attributes:
        _attributes(args.attributes, {"seed": list(range(total))}, attributes_of(draw(range(total), split)))
    print(f"{args.dataset}: {total} images of the split {split!r} in {len(shards)} shards, {args.resolution} pixels")


def _split(args: argparse.Namespace) -> Split:
    split: Split = args.split or ("train" if args.dataset else "eval")
    return split


def _renderer(args: argparse.Namespace) -> Renderer:
    from legato.synthetic.renderer import Renderer

    try:
        return Renderer(args.resolution, args.supersample, compiled=args.compiled, device=args.device)
    except (ValueError, RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ConfigError(str(error).partition("\n")[0]) from error


@contextlib.contextmanager
def _bar(total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal; gives the function that moves it."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, disable=None, mininterval=0.5) as bar:
        yield bar.update


def _attributes(path: Path | None, labels: dict[str, Sequence[float]], values: Tensor) -> None:
    """Writes a row for each picture: what it is called and its attributes [N, A]."""
    from legato.synthetic.factors import ATTRIBUTES

    if path is None:
        return
    names = [*labels, *ATTRIBUTES]
    rows = [[*label, *row] for *label, row in zip(*labels.values(), values.tolist(), strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([names, *rows])
        else:
            json.dump([dict(zip(names, row, strict=True)) for row in rows], file, indent=1)
            file.write("\n")


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"frames a second, above 0 and at most 1000; got {text!r}")
    return value
