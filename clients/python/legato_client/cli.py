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
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from legato_client import models_command
from legato_client.bench_command import add_options, bench
from legato_client.channel import DEFAULT_ADDRESS
from legato_client.client import Client
from legato_client.clip import Filled, paced, through
from legato_client.errors import InvalidEdit, LegatoError
from legato_client.images import Image
from legato_client.invert_command import invert, save_arrays
from legato_client.media import MediaError, Source, open_source
from legato_client.report import Meter
from legato_client.session import Session
from legato_client.types import Budget, Edit, Outputs
from legato_client.variant_option import Sinks, add_variant_option, named


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


def stream(args: argparse.Namespace) -> None:
    """A clip in, a clip out: exactly as many frames."""
    source = open_source(args.input, args.fps)
    show = args.show or ("edited" if args.edit else "reconstruction")
    if show == "edited" and not args.edit:
        raise InvalidEdit("--show edited needs an --edit NAME=STRENGTH")
    variants, edits = named(args.variant), args.edit if show == "edited" else ()
    sink = Sinks(args.output, tuple(variants), source.rate, source.tick)
    outputs = Outputs(
        reconstruction=show == "reconstruction",
        edited=bool(edits or variants),
        latents=args.latents is not None,
        format=sink.format,
    )
    meter, track = Meter(), _Track()
    with Client(args.server) as client:
        budget = Budget(max_steps=args.steps)
        opening = client.open(
            model=args.model, edits=edits, variants=variants, policy=args.policy, budget=budget, outputs=outputs
        )
        with opening as session, sink:
            try:
                for filled in _with_progress(session, source, meter, args.live):
                    shown = filled.result.edited if show == "edited" else filled.result.reconstruction
                    sink.write(cast(Image, shown), filled.result.variants, filled.shot)
                    track.add(filled, source.tick)
            finally:
                if args.latents is not None and track.times:
                    track.save(args.latents, session)
    count = len(track.times)
    report = meter.report(count, count)
    if args.json:
        facts: dict[str, Any] = {"model": session.model.name, "model_digest": session.model.digest, "show": show}
        facts["variants"] = {name: str(path) for name, path in sink.paths.items()}
        print(json.dumps({**report, "frames_replaced": sum(track.replaced), **facts}, indent=2))
        return
    side, age = session.model.resolution, report["frame_age_ms"]
    quality = "" if report["psnr_db"] is None else f"{report['psnr_db']:.2f} dB, "
    print(
        f"{args.output}: {count} frames of {side}x{side} ({show}), {report['fps']:.1f} frames/s, "
        f"{quality}age {age['p50']:.0f} ms median, {age['p95']:.0f} ms p95"
    )
    for name, path in sink.paths.items():
        print(f"{path}: variant {name}")
    if any(track.replaced):
        print(
            f"{sum(track.replaced)} frames were not answered ({meter.dropped} dropped, {meter.failed} failed) and show "
            f"the last good one{f'; the first said: {meter.complaint}' if meter.complaint else ''}",
            file=sys.stderr,
        )


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


class _Track:
    """What a clip leaves beside its pictures: times, latents, which frames stand in for others."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.replaced: list[bool] = []
        self._latents: list[NDArray[np.float32]] = []

    def add(self, filled: Filled, tick: Fraction) -> None:
        self.times.append(float(filled.shot.pts * tick))
        self.replaced.append(filled.replaced)
        if filled.result.latents is not None:
            self._latents.append(filled.result.latents)

    def save(self, path: Path, session: Session) -> None:
        """latents float32 [T, L, D], time_seconds [T], replaced bool [T], model and its digest."""
        save_arrays(
            path,
            latents=np.stack(self._latents),
            time_seconds=np.array(self.times),
            replaced=np.array(self.replaced),
            model=session.model.name,
            model_digest=session.model.digest,
        )


def _with_progress(session: Session, source: Source, meter: Meter, live: bool) -> Any:
    frames = paced(source.frames(), source.tick) if live else source.frames()
    return tqdm(through(session, frames, meter), total=source.count, unit="frame", disable=None, file=sys.stderr)


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
    work = argparse.ArgumentParser(add_help=False)
    work.add_argument(
        "--edit",
        action="append",
        default=[],
        type=edit_argument,
        metavar="NAME=STRENGTH",
        help="a direction from `directions`, in standard deviations of its attribute; may be repeated",
    )
    add_variant_option(work)
    work.add_argument("--steps", type=_count, default=0, help="gradient steps per frame (default: %(default)s)")
    work.add_argument("--latents", type=Path, metavar="FILE.npz", help="also write the latents, float32 [T, L, D]")

    clip = commands.add_parser(
        "stream",
        parents=[common, model, work],
        help="a clip in, a clip out, frame for frame",
        description="A clip in, a clip out: exactly as many frames, at the same times. The output is a square of the "
        "model's size; other aspects come letterboxed. A frame that could not be answered shows the last good one. "
        "Sound is not carried over.",
    )
    clip.add_argument("input", type=Path, metavar="IN", help="a video file, or a folder of PNG or JPEG files")
    clip.add_argument("output", type=Path, metavar="OUT", help="a .mp4, .mkv, .mov or .webm file, or a folder")
    clip.add_argument("--policy", choices=("ordered", "latest"), default="ordered", help="(default: %(default)s)")
    clip.add_argument("--show", choices=("reconstruction", "edited"), help="default: edited, if there is an --edit")
    clip.add_argument("--fps", type=_rate, default=Fraction(25), help="of a folder's frames (default: %(default)s)")
    clip.add_argument("--live", action="store_true", help="send each frame at its time, as a camera would")
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
        parents=[common, model, work],
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
