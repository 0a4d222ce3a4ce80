"""The command `legato-client`: clips and images through a legato server, from the shell."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

from legato_client import models_command
from legato_client.bench_command import add_options, bench
from legato_client.channel import DEFAULT_ADDRESS
from legato_client.client import Client
from legato_client.errors import InvalidEdit, LegatoError
from legato_client.invert_command import invert
from legato_client.media import MediaError
from legato_client.stream_command import add_stream_options, stream
from legato_client.types import Edit
from legato_client.variant_option import add_variant_option


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0, 1 where it failed (the message is on stderr), 130 after an interrupt."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (LegatoError, MediaError, OSError) as error:
        print(f"legato-client: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("legato-client: interrupted", file=sys.stderr)
        return 130
    return 0


def directions(args: argparse.Namespace) -> None:
    """The named editing directions of a model."""
    with Client(args.server) as client:
        found = client.list_directions(args.model)
    if args.json:
        print(json.dumps([asdict(direction) for direction in found], indent=2))
        return
    width = max((len(direction.name) for direction in found), default=0)
    for direction in found:
        measured = f"response {direction.response:5.2f}  leakage {direction.leakage:5.2f}  {direction.space:2}"
        print(f"{direction.name:{width}}  {measured}  {direction.description}".rstrip())


def edit_argument(text: str) -> Edit:
    """NAME=STRENGTH, for argparse."""
    name, equals, strength = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return Edit(name.strip(), float(strength))
    except (ValueError, InvalidEdit):
        raise argparse.ArgumentTypeError(f"an edit is NAME=STRENGTH, as in smile=2 or yaw=-1.5; got {text!r}") from None


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
        if rate <= 0:
            raise ValueError
        return rate
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"frames per second, as in 25 or 30000/1001; got {text!r}") from None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a count, 0 or more; got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="legato-client", description="Streams clips and images through a legato server."
    )
    parser.add_argument("--version", action="version", version=f"legato-client {version('legato-client')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--server", default=DEFAULT_ADDRESS, metavar="ADDR", help="host:port (default: %(default)s)")
    common.add_argument("--json", action="store_true", help="print the report as JSON")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default="", metavar="NAME", help="a name from `models` (default: the server's)")
    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument(
        "--edit",
        action="append",
        default=[],
        type=edit_argument,
        metavar="NAME=STRENGTH",
        help="a direction from `directions`, in standard deviations of its attribute; may be repeated",
    )
    asked.add_argument("--steps", type=_count, default=0, help="gradient steps per frame (default: %(default)s)")
    work = argparse.ArgumentParser(add_help=False, parents=[asked])
    add_variant_option(work)
    work.add_argument("--latents", type=Path, metavar="FILE.npz", help="also write the latents, float32 [T, L, D]")

    clip = commands.add_parser(
        "stream",
        parents=[common, model, work],
        help="a clip in, a clip out, frame for frame",
        description="A clip in, a clip out: exactly as many frames, at the same times. The output is a square of the "
        "model's size; other aspects come letterboxed. A frame that could not be answered shows the last good one. "
        "The sound of a video goes along untouched. With --align face the output is the whole frames, with their face "
        "put back.",
    )
    clip.add_argument("--fps", type=_rate, default=Fraction(25), help="of a folder's frames (default: %(default)s)")
    add_stream_options(clip)
    clip.set_defaults(run=stream)

    inverted = commands.add_parser(
        "invert",
        parents=[common, model, work],
        help="one image in, one out; with --method a clip, inverted as a whole",
        description="One image in, its reconstruction, or the edit of it, out. A clip is inverted as a whole on the "
        "server, offline: exactly as many frames out. Ctrl-C ends the work there too.",
    )
    inverted.add_argument("input", type=Path, metavar="IN", help="a PNG or JPEG file, a video file, or a folder")
    inverted.add_argument("output", type=Path, metavar="OUT", help="a .png or .jpg file; of a clip a video or a folder")
    inverted.add_argument(
        "--method",
        metavar="NAME[:KEY=VALUE,...]",
        help="consecutive (a clip's default), in_domain, w_plus, w, multi_code, encoder; as in consecutive:steps=50",
    )
    inverted.add_argument("--fps", type=_rate, default=Fraction(25), help="of a folder's frames (default: %(default)s)")
    inverted.set_defaults(run=invert)

    load = commands.add_parser(
        "bench",
        parents=[common, model, asked],
        help="a load on the server: how many frames, how old, how many lost",
        description="Many sessions at once, each with a camera of its own whose frames are due whether or not answers "
        "come; a frame's age counts from when it was due. Tells what became of every frame.",
    )
    add_options(load)
    load.set_defaults(run=bench)

    models_command.add_options(
        commands.add_parser("models", parents=[common], help="the models that the server has; load, unload")
    )
    named = commands.add_parser("directions", parents=[common, model], help="the editing directions of a model")
    named.set_defaults(run=directions)
    return parser
