"""`legato bench server`: how many cameras the server holds, in knee curves."""

from __future__ import annotations

import argparse
from pathlib import Path

from legato.commands._bench_options import add_results, check_results, progress, write_json
from legato.commands._numbers import count, positive, whole
from legato.errors import ConfigError

EPILOG = """
The load comes from a process of its own, through the client: every session is a camera whose frames are due whether or
not answers come. A session is held where 99 of 100 answers are no older than a frame period and 99 of 100 frames are
answered. The number of sessions doubles until not all are held; then the gap is halved.
How it is measured and how to read it: docs/benchmarks.md.
"""


def add_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato bench server`."""
    parser = kinds.add_parser(
        "server",
        help="sessions held at a frame rate",
        description="Sweeps the number of sessions to the knee, by an open-loop load through the client.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(bench=run)
    what = parser.add_argument_group("what").add_argument
    what("--model", default="heads-128", metavar="M", help="of the server that is started (default: %(default)s)")
    what("--address", default="", metavar="HOST:PORT", help="a server that runs, instead of one that is started")
    what("--metrics", default="", metavar="HOST:PORT", help="its Prometheus page, for the batch sizes")
    what("--input", type=Path, metavar="CLIP", help="a video or a folder (default: the model's clip, or drawn ones)")
    what("--edit", default="smile=2", metavar="NAME=STRENGTH", help="(default: %(default)s)")
    how = parser.add_argument_group("how").add_argument
    how("--steps", nargs="+", type=whole, metavar="K", help="asked for; a sweep for each (default: 0 1 4)")
    how("--fps", type=positive, default=25.0, metavar="X", help="of each camera (default: %(default)s)")
    how("--seconds", type=positive, metavar="X", help="of each point (default: 10, quick 3)")
    how("--most", type=count, metavar="N", help="sessions (default: 64, quick 16)")
    how("--policy", choices=("latest", "ordered"), default="latest", help="(default: %(default)s)")
    how("--deadline-ms", type=positive, metavar="X", help="wanted answer time (default: a frame period)")
    how("--threads", type=count, metavar="N", help="of the model on the CPU (default: torch's own)")
    how("--quick", action="store_true", help="steps 0 and 4, 3 seconds a point, 16 sessions at most")
    add_results(parser, "knee curves")


def run(args: argparse.Namespace) -> int:
    """0. Raises ConfigError before anything is measured, LegatoError where server or load fail."""
    check_results(args)
    if args.metrics and not args.address:
        raise ConfigError("--metrics is the page of the server at --address; a server that is started tells its own")
    from legato.benchmarks import server
    from legato.benchmarks.engine_report import print_server
    from legato.benchmarks.held_out import clip_file

    options = server.Options(
        model=args.model,
        address=args.address,
        metrics=args.metrics,
        steps=tuple(args.steps or ((0, 4) if args.quick else (0, 1, 4))),
        fps=args.fps,
        seconds=args.seconds or (3.0 if args.quick else 10.0),
        most=args.most or (16 if args.quick else 64),
        policy=args.policy,
        deadline=args.deadline_ms / 1e3 if args.deadline_ms else None,
        edit=args.edit,
        clip=args.input or (None if args.address else clip_file(args.model)),
        threads=args.threads or 0,
        quick=args.quick,
    )
    with progress("session") as tell:
        result = server.run(options, tell)
    print_server(result)
    if args.json:
        write_json(result, args.json)
        print(f"{args.json}: {len(result['curves'])} curves")
    if args.picture:
        from legato.benchmarks.engine_picture import draw_server

        draw_server(result, args.picture)
        print(f"{args.picture}: knee curves")
    return 0
