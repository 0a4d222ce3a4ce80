"""`legato edit`: edits of codes that were found, or of pictures straight away."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legato.commands import _offline
from legato.commands._numbers import count, layers
from legato.commands.invert import add_method, method_of
from legato.errors import ConfigError

if TYPE_CHECKING:
    from legato.editing.directions import Directions
    from legato.inversion.methods import Progress
    from legato.offline.codes import Codes
    from legato.offline.editing import Edited
    from legato.offline.inverting import Job
    from legato.offline.reading import Item

EPILOG = """
IN, and what --mix, --interpolate and --transfer name, are files that `legato invert` wrote (latents.npz), or pictures,
which are inverted first by --method. DIR/NAME gets the pictures or clip, their codes as .npz, which can be edited on,
and a sheet of all side by side.
  legato edit out/clip/latents.npz --edit smile=2 --edit yaw=-1 --out out     both at once
  legato edit photo.png --sweep smile=-3:3:7 --sweep yaw=-2:2:5 --out out     each for itself
  legato edit photo.png --edit smile=2 --within mouth.png --out out           nothing changes outside of the white of it
  legato edit a.npz --mix b.npz --layers 8-11 --out out                       content of a, style of b
  legato edit a.png --diffuse b.png --crop 64,72,56 --out out                 what is in the square of a, in b
  legato edit photo.png --transfer out/clip/latents.npz --out out             the photo moves as the clip did
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato edit`."""
    parser = subparsers.add_parser(
        "edit",
        help="edit codes or pictures: directions, mixing, diffusion, transfer",
        description="Edits images and clips in the latent space of a generator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="*", type=Path, metavar="IN", help="latents.npz, images, videos, folders")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the results go")
    parser.add_argument("--list", action="store_true", help="tell the directions, with response and leakage")
    parser.add_argument("--json", action="store_true", help="print the report, or the list, as JSON")

    what = parser.add_argument_group("edits (one kind a command)")
    what.add_argument(
        "--edit",
        action="append",
        type=_offline.edit_argument,
        default=[],
        metavar="NAME=STRENGTH",
        help="in standard deviations of the attribute; several are made at once",
    )
    what.add_argument(
        "--sweep",
        action="append",
        type=_sweep,
        default=[],
        metavar="NAME=FROM:TO:COUNT",
        help="one direction at several strengths, as in smile=-3:3:7",
    )
    what.add_argument("--mix", type=Path, metavar="STYLE", help="take --layers from this one's codes")
    what.add_argument("--interpolate", type=Path, metavar="OTHER", help="the way to this one's first frame")
    what.add_argument("--transfer", type=Path, metavar="CLIP", help="move the first frame as this clip moves")
    what.add_argument("--diffuse", type=Path, metavar="CONTEXT", help="put --crop or --mask of IN into this picture")

    how = parser.add_argument_group("details")
    how.add_argument("--directions", type=Path, metavar="FILE", help="directions.safetensors, in place of the model's")
    how.add_argument(
        "--layers", type=layers, metavar="N-M", help="of W+, as in 8-11 or 0,3 (default: all, but of --mix)"
    )
    how.add_argument(
        "--within",
        type=Path,
        metavar="FILE",
        help="of --edit: a picture, white where it may change (Style Intervention)",
    )
    how.add_argument("--between", type=count, default=5, metavar="N", help="of --interpolate (default: 5)")
    how.add_argument("--strength", type=float, default=1.0, metavar="X", help="of --transfer (default: 1)")
    how.add_argument("--crop", type=_crop, metavar="X,Y,SIDE", help="of --diffuse: a square around (X, Y), pixels")
    how.add_argument("--mask", type=Path, metavar="FILE", help="of --diffuse: a picture, white where IN is wanted")
    add_method(parser, "in_domain")
    _offline.add_reading(parser)
    _offline.add_model(parser)
    _offline.add_machine(parser)


def run(args: argparse.Namespace) -> int:
    """Edits. 0; 1 where an input could not be done; 130 interrupted. Raises LegatoError."""
    if args.list:
        return _list(args)
    _check(args)

    from legato.offline.inverting import Job
    from legato.offline.networks import directions_of

    method, model = method_of(args), _offline.open_model(args)
    directions = None
    if args.edit or args.sweep:
        directions = directions_of(model, args.directions)
        for name in (*(edit.direction for edit in args.edit), *(name for name, *_ in args.sweep)):
            directions.info(name)
    job = Job(model, method, args.out, restart=args.restart, how=_offline.reading(args, model))
    try:
        if args.diffuse is not None:
            return _diffuse(args, job)
        return _edit(args, job, directions)
    except KeyboardInterrupt:
        return _offline.interrupted()


def _check(args: argparse.Namespace) -> None:
    """Raises ConfigError for options that do not go together."""
    if not args.inputs or args.out is None:
        raise ConfigError("name what to edit, and --out DIR: legato edit latents.npz --edit smile=2 --out out")
    kinds = {name: getattr(args, name) for name in ("mix", "interpolate", "transfer", "diffuse")}
    given = [f"--{name}" for name, value in kinds.items() if value is not None]
    given += [f"--{name}" for name in ("edit", "sweep") if getattr(args, name)]
    if not given:
        raise ConfigError(
            "name an edit: --edit NAME=STRENGTH, --sweep, --mix, --interpolate, --transfer or --diffuse; "
            "`legato edit --list` tells the directions"
        )
    if len(given) > 1 and set(given) != {"--edit", "--sweep"}:
        raise ConfigError(
            f"{' and '.join(given)} are two commands: what the first writes (.npz) is edited by the second"
        )
    if args.mix is not None and args.layers is None:
        raise ConfigError("--mix needs --layers: those that are taken from the style, as in 8-11")
    if args.diffuse is not None and (args.crop is None) == (args.mask is None):
        raise ConfigError("--diffuse needs one of --crop X,Y,SIDE and --mask FILE: what of IN is wanted")
    if args.diffuse is None and (args.crop is not None or args.mask is not None):
        raise ConfigError("--crop and --mask belong to --diffuse")
    if args.within is not None and (not args.edit or args.sweep):
        raise ConfigError("--within belongs to --edit, and goes without --sweep")
    if args.directions is not None and not (args.edit or args.sweep):
        raise ConfigError("--directions belongs to --edit, --sweep and --list")
    if args.transfer is None and args.strength != 1.0:
        raise ConfigError("--strength belongs to --transfer; that of an edit follows its name, as in smile=2")


def _list(args: argparse.Namespace) -> int:
    """The directions, as a table or JSON."""
    import dataclasses

    from rich import box
    from rich.console import Console
    from rich.table import Table

    from legato.editing.directions import load_directions

    directions = load_directions(args.directions or args.model)
    infos = [directions.info(name) for name in directions.names]
    if args.json:
        print(json.dumps([dataclasses.asdict(info) for info in infos], indent=2))
        return 0
    table = Table(box=box.SIMPLE)
    for name in ("direction", "towards", "response", "leakage"):
        table.add_column(name, justify="right" if name in ("response", "leakage") else "left")
    for info in infos:
        measured = info.response != 0.0 or info.leakage != 0.0
        figures = (f"{info.response:.2f}", f"{info.leakage:.2f}") if measured else ("-", "-")
        table.add_row(info.name, info.description, *figures)
    Console().print(table)
    print("response at strength 2, and mean change of all other attributes, in standard deviations")
    return 0


def _edit(args: argparse.Namespace, job: Job, directions: Directions | None) -> int:
    """Everything that is made of codes."""
    from legato.offline import editing
    from legato.offline.diffusing import read_mask
    from legato.offline.running import finish, open_codes, work_on
    from legato.offline.within import edit_within
    from legato.offline.writing import write_json

    other = next((path for path in (args.mix, args.interpolate, args.transfer) if path is not None), None)
    second = open_codes(other, job) if other is not None else None
    makers: list[Callable[[Codes], Edited]] = []
    if second is not None and args.mix is not None:
        makers.append(lambda codes: editing.mix(codes, second, args.layers))
    elif second is not None and args.interpolate is not None:
        makers.append(lambda codes: editing.between(codes, second, args.between))
    elif second is not None:
        makers.append(lambda codes: editing.move_as(codes, second, args.strength, args.layers))
    region = read_mask(args.within, job.model.resolution) if args.within is not None else None
    if directions is not None and region is None:
        if args.edit:
            makers.append(lambda codes: editing.edit(codes, directions, args.edit, args.layers))
        for each in args.sweep:
            wanted = editing.Sweep(*each)
            makers.append(lambda codes, wanted=wanted: editing.sweep(codes, directions, wanted, args.layers))  # type: ignore[misc]

    def work(codes: Codes) -> dict[str, Any]:
        folder = job.folder(codes.name)
        files = [name for make in makers for name in editing.write_edited(folder, make(codes), job.model.generator)]
        if region is not None and directions is not None:
            files += edit_within(codes, directions, args.edit, region, args.layers, job.model.generator, folder)
        report = {"name": codes.name, "frames": len(codes.labels), "inverted_by": codes.method, "files": files}
        write_json(folder / "edit.json", report | {"asked": _asked(args), "model_digest": codes.model_digest})
        return report

    return finish(job.out, *work_on(args.inputs, job, work), as_json=args.json)


def _diffuse(args: argparse.Namespace, job: Job) -> int:
    """`--diffuse`: from pictures alone."""
    from legato.inversion.in_domain import InDomainOptions
    from legato.offline.diffusing import crop_mask, diffuse_item, read_mask
    from legato.offline.reading import read
    from legato.offline.running import finish, run_all
    from legato.offline.sources import find
    from legato.offline.writing import write_json

    side = job.model.resolution
    options = job.method.options
    if not isinstance(options, InDomainOptions):
        raise ConfigError(f"--diffuse is done by the method in_domain; got {job.method.label}")
    contexts = find([args.diffuse])
    if len(contexts) > 1:
        raise ConfigError(f"{args.diffuse} holds {len(contexts)} contexts; name one picture or clip")
    context = read(contexts[0], side)
    mask = crop_mask(side, *args.crop) if args.crop is not None else read_mask(args.mask, side)

    def work(item: Item, progress: Progress) -> dict[str, Any]:
        folder = job.folder(item.name)
        files = diffuse_item(item, context, mask, job.model, options, folder, progress)
        report = {"name": item.name, "frames": len(item.frames), "files": files}
        write_json(folder / "edit.json", report | {"asked": _asked(args)})
        return report

    sources = find(args.inputs, leave_out=job.out)
    return finish(job.out, *run_all(sources, side, work), as_json=args.json)


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """What a command asked for, for its report."""
    plain = ("mix", "interpolate", "transfer", "diffuse", "directions", "mask", "within")
    asked = {name: str(getattr(args, name)) for name in plain if getattr(args, name) is not None}
    more = {"edit": {edit.direction: edit.strength for edit in args.edit}, "sweep": args.sweep}
    more |= {"layers": args.layers, "crop": args.crop}
    return asked | {name: value for name, value in more.items() if value}


def _sweep(text: str) -> tuple[str, float, float, int]:
    match = re.fullmatch(r"([^=]+)=([^:]+):([^:]+):(\d+)", text)
    try:
        if match is None or not 2 <= int(match[4]) <= 99:
            raise ValueError
        first, last = (_offline.edit_argument(f"{match[1]}={end}") for end in (match[2], match[3]))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a sweep is NAME=FROM:TO:COUNT with at least 2 strengths, as in smile=-3:3:7; got {text!r}"
        ) from None
    return first.direction, first.strength, last.strength, int(match[4])


def _crop(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"a crop is X,Y,SIDE in pixels of the model's square, as in 64,72,56; got {text!r}"
        )
    x, y, side = (int(part) for part in parts)
    return x, y, side
