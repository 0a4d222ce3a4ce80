"""`legato-client bench`: a load on a running server, from this machine, through this very client."""

from __future__ import annotations

import argparse
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

from legato_client.client import Client
from legato_client.images import Picture, unpacked
from legato_client.load import Load, put, walk
from legato_client.media import open_source
from legato_client.types import Outputs

DRAWN_FRAMES = 32


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options beside --server, --json, --model, --edit and --steps."""
    parser.add_argument("--sessions", type=_count, default=1, metavar="N", help="at once (default: %(default)s)")
    parser.add_argument(
        "--fps", type=_amount, default=25.0, help="of each session's camera; 0: as fast as answers come (default: 25)"
    )
    parser.add_argument("--seconds", type=_positive, default=10.0, help="that count (default: %(default)s)")
    parser.add_argument("--warm-seconds", type=_amount, default=1.0, help="before them (default: %(default)s)")
    parser.add_argument(
        "--deadline", type=_amount, default=0.0, metavar="MS", help="wanted answer time; 0: the server's"
    )
    parser.add_argument("--policy", choices=("ordered", "latest"), default="ordered", help="(default: %(default)s)")
    parser.add_argument("--in-flight", type=_whole, default=0, metavar="N", help="frames of a session; 0: as granted")
    parser.add_argument(
        "--input", type=Path, metavar="CLIP", help="a video or a folder of pictures (default: the server draws some)"
    )
    parser.add_argument("--format", choices=("jpeg", "png", "raw"), default="jpeg", help="of the answers' pictures")


def bench(args: argparse.Namespace) -> None:
    """Runs the load and prints what became of the frames."""
    load = Load(
        sessions=args.sessions,
        fps=args.fps,
        seconds=args.seconds,
        warm_seconds=args.warm_seconds,
        steps=args.steps,
        deadline_seconds=args.deadline / 1e3,
        policy=args.policy,
        edits=tuple(args.edit),
        outputs=Outputs(format=args.format),
        in_flight=args.in_flight,
        model=args.model,
    )
    figures = put(args.server, _frames(args), load)
    if args.json:
        print(json.dumps(figures))
    else:
        print(_told(figures, load))


def _frames(args: argparse.Namespace) -> list[Picture]:
    """In memory: disk, video decoder and the server's drawing are not what is measured."""
    if args.input is not None:
        return [unpacked(picture) for _, picture in open_source(args.input, Fraction(25)).frames()]
    with Client(args.server) as client:
        return list(walk(client, DRAWN_FRAMES, args.model))


def _told(figures: dict[str, Any], load: Load) -> str:
    age, quality = figures["age_ms"], figures["psnr_db"]
    ages = f", age {age['p50']:.0f} ms median, {age['p95']:.0f} ms p95, {age['p99']:.0f} ms p99" if age else ""
    lines = [
        f"{figures['sessions']} sessions, "
        + (f"{load.fps:g} frames/s each, open loop" if load.fps else "as fast as answers come")
        + (f"; {figures['refused']} refused" if figures["refused"] else ""),
        f"{figures['fps']:.1f} frames/s answered{ages}",
        f"{figures['steps'] or 0:.2f} steps a frame" + ("" if quality is None else f", {quality:.2f} dB"),
    ]
    if load.fps:
        lines.append(f"held (p99 within {1e3 / load.fps:.0f} ms, 99 of 100 frames answered): {figures['held']}")
    missed = {**figures["dropped"], "failed": figures["failed"], "not sent": figures["unsent"]}
    if any(missed.values()):
        lines.append("missed: " + ", ".join(f"{count} {why}" for why, count in missed.items() if count))
    if figures["first_failure"]:
        lines.append(f"the first failure said: {figures['first_failure']}")
    return "\n".join(lines)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number, 0 or more; got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if _whole(text) < 1:
        raise argparse.ArgumentTypeError("at least 1; got 0")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"a finite number, 0 or more; got {text!r}")
    return value


def _positive(text: str) -> float:
    if not _amount(text):
        raise argparse.ArgumentTypeError("more than 0")
    return float(text)
