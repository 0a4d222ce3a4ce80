"""`legato bench engine`: speed, quality by generator passes, the background window, overload."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legato import config
from legato.commands._bench_options import add_results, check_results, progress, write_json
from legato.commands._numbers import count, positive
from legato.commands._offline import edit_argument
from legato.errors import ConfigError

if TYPE_CHECKING:
    from legato.benchmarks.engine import Options

SECTIONS = ("stream", "speed", "quality", "window", "overload")
QUICK = {"clips": 4, "frames": 24, "seconds": 3.0, "rounds": 3, "window_clips": 2, "every": 8, "minutes": 9.0}
EPILOG = """
sections:
  stream     one session through gRPC and the client, reconstruction and edit back as JPEG, with 0 and 1 refine steps:
             as fast as answers come, and with a camera of 25 and of 30 frames/s
  speed      that, 8 sessions, the engine without gRPC and the bare pipeline, in turn: overhead and batching
  quality    held-out rendered clips streamed with 0, 1, 2, 4, 8 steps a frame, beside independent frames of the same
             passes and free W+ of 150 steps on every n-th frame
  window     a stream of 15 frames/s without steps on the frame, the background window off and on
  overload   three times what the server can do, from sessions of the policy LATEST
How it is measured and how to read it: docs/benchmarks.md.
"""


def add_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato bench engine`."""
    parser = kinds.add_parser(
        "engine",
        help="frames/s, quality by passes, window, overload",
        description="Measures the engine and the served path on this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(bench=run)
    what = parser.add_argument_group("what").add_argument
    what("--model", default="heads-128", metavar="M", help="name or folder (default: %(default)s)")
    what("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    what("--edit", type=edit_argument, metavar="NAME=STRENGTH", help="(default: smile=2, or the first direction)")
    how = parser.add_argument_group("how").add_argument
    how("--quick", action="store_true", help="within 10 minutes on 2 cores: fewer clips, frames and rounds")
    how("--clips", type=count, metavar="N", help="held-out clips (default: 12, quick 4)")
    how("--frames", type=count, metavar="N", help="of each clip (default: 50, quick 24)")
    how("--every", type=count, metavar="N", help="n-th frame that is inverted freely (default: 10, quick 8)")
    how("--seconds", type=positive, metavar="X", help="of each measurement of speed (default: 5, quick 3)")
    how("--rounds", type=count, metavar="N", help="of the race (default: 5, quick 3)")
    how("--window-clips", type=count, metavar="N", help="(default: 6, quick 2)")
    how("--window-seconds", type=positive, metavar="X", help="of each, more than 5 (default: 8)")
    how("--budget-ms", type=positive, default=200.0, metavar="X", help="to an answer under overload (default: 200)")
    how("--minutes", type=positive, metavar="X", help="of all; what does not fit is left out, and told (quick: 9)")
    how("--threads", type=count, metavar="N", help="of the model on the CPU (default: torch's own)")
    how("--cache", type=Path, metavar="DIR", help="of rendered clips (default: in the user's cache)")
    add_results(parser, "quality over passes and time")


def run(args: argparse.Namespace) -> int:
    """0. Raises ConfigError before anything is measured, and whatever ended a measurement."""
    check_results(args)
    options = _options(args)
    from legato.benchmarks import engine
    from legato.benchmarks.engine_report import print_engine
    from legato.commands.serve import build_engine

    with progress("step") as tell:
        result = engine.run(options, build_engine, tell)
    print_engine(result)
    if args.json:
        write_json(result, args.json)
        print(f"{args.json}: {', '.join(result['setting']['sections'])}")
    if args.picture:
        from legato.benchmarks.engine_picture import draw_engine

        drawn = draw_engine(result, args.picture)
        print(f"{args.picture}: quality" if drawn else "neither quality nor the window was measured: no picture")
    return 0


def _options(args: argparse.Namespace) -> Options:
    from legato.benchmarks.engine import Options

    quick = QUICK if args.quick else {}
    numbers = ("clips", "frames", "every", "seconds", "rounds", "window_clips", "window_seconds", "minutes")
    given: dict[str, Any] = {name: getattr(args, name) or quick.get(name) for name in numbers}
    options = Options(
        model=args.model,
        sections=tuple(section for section in SECTIONS if section in (args.only or SECTIONS)),
        budget=args.budget_ms / 1e3,
        threads=args.threads or 0,
        quick=args.quick,
        cache=args.cache or config.cache_folder(),
        edit=args.edit,
        **{name: value for name, value in given.items() if value is not None},
    )
    if options.window_seconds <= 5.0:
        raise ConfigError(f"the window is judged after 5 seconds: --window-seconds is more; got {args.window_seconds}")
    return options
