"""`legato invert`: the codes of images and clips by any of the methods, offline, resumable."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from legato.commands import _offline
from legato.commands._numbers import count
from legato.errors import ConfigError

if TYPE_CHECKING:
    from legato.inversion.method import Method

EPILOG = """
Methods: encoder, w, w_plus, in_domain, consecutive, multi_code; options of a method follow its name, as in
consecutive:share=static,steps=50 or in_domain:released. One that is not known is answered with those that are.
consecutive takes a clip, a folder, or images named one by one in their order, and inverts them together.

For every input, DIR/NAME holds latents.npz, reconstruction (.png, a folder, or .mp4 of the same length and times),
comparison.png and report.json, with --edit also the edited pictures. Pictures of another size are letterboxed, and
told. A killed run goes on where it was when the same command is started again.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato invert`."""
    parser = subparsers.add_parser(
        "invert",
        help="images and clips to codes, by any method",
        description="Inverts images, folders of images and clips into the latent space of a generator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="images, videos, folders of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    add_method(parser, "consecutive")
    parser.add_argument(
        "--edit",
        action="append",
        type=_offline.edit_argument,
        default=[],
        metavar="NAME=STRENGTH",
        help="also show this edit, in standard deviations of the attribute; may be repeated (legato edit --list)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    _offline.add_reading(parser)
    _offline.add_model(parser)
    _offline.add_machine(parser)


def add_method(parser: argparse.ArgumentParser, default: str) -> None:
    """How pictures are inverted."""
    how = parser.add_argument_group("method")
    how.add_argument(
        "--method", default=default, metavar="SPEC", help="NAME or NAME:key=value,... (default: %(default)s)"
    )
    how.add_argument("--steps", type=count, metavar="N", help="of the optimization, in place of the method's")
    how.add_argument("--start", choices=("encoder", "w_avg"), help="where it begins, in place of the method's")
    how.add_argument("--unordered", action="store_true", help="consecutive: photos of one subject in no order")
    how.add_argument("--restart", action="store_true", help="replace what an earlier run left in DIR for these inputs")


def run(args: argparse.Namespace) -> int:
    """Inverts. 0; 1 where an input could not be done; 130 interrupted. Raises LegatoError."""
    from legato.inversion.consecutive import ConsecutiveOptions
    from legato.offline.inverting import Job, invert_item
    from legato.offline.networks import directions_of
    from legato.offline.running import conclude, run_all, say
    from legato.offline.sources import find

    method = method_of(args)
    sources = find(args.inputs, together=isinstance(method.options, ConsecutiveOptions), leave_out=args.out)
    model = _offline.open_model(args)
    directions = directions_of(model) if args.edit else None
    if directions is not None:
        for edit in args.edit:
            directions.info(edit.direction)
    job = Job(model, method, args.out, directions, tuple(args.edit), args.restart, _offline.reading(args, model))
    try:
        reports, failed = run_all(
            sources, model.resolution, lambda item, progress: invert_item(item, job, say, progress), job.how
        )
    except KeyboardInterrupt:
        return _offline.interrupted()
    return conclude(args.out, reports, failed, as_json=args.json)


def method_of(args: argparse.Namespace) -> Method:
    """The method with the options that have an argument of their own. Raises InvalidInput, ConfigError."""
    from legato.inversion.consecutive import ConsecutiveOptions
    from legato.inversion.method import parse_method

    asked = {"steps": args.steps, "start": args.start, "ordered": False if args.unordered else None}
    given = {name: value for name, value in asked.items() if value is not None}
    text = args.method
    for name, value in given.items():
        text += f"{',' if ':' in text else ':'}{name}={str(value).lower()}"
    plain = parse_method(args.method)
    if plain.options is None and given:
        raise ConfigError(f"the method {plain.name} has no {', '.join(f'--{name}' for name in given)}")
    if args.unordered and not isinstance(plain.options, ConsecutiveOptions):
        raise ConfigError(f"--unordered belongs to the method consecutive; {plain.name} takes each image for itself")
    if args.start and not hasattr(plain.options, "start"):
        raise ConfigError(f"--start belongs to w, w_plus and consecutive; {plain.name} has its own")
    return parse_method(text)
