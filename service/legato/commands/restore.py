"""`legato restore`: pictures that lost their color, their size, a part or their clarity, by the multi-code prior."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legato.commands import _offline
from legato.commands._numbers import count

if TYPE_CHECKING:
    from rich.table import Table

EPILOG = """
colorize      gives gray pictures colors; of colored ones the luma is taken.
super-resolve enlarges pictures of 1/2, 1/4, 1/8 or 1/16 of the model's side.
inpaint       fills what is white in --mask; what is black there is kept.
denoise       without a mask takes noise off; with one, fills the lost pixels, which are white in it.
With --degrade the pictures are clean: they are degraded first, and the report says how close the restored ones come.

For every input, DIR/NAME holds restored (.png, a folder, or .mp4 of the same length and times), comparison.png,
latents.npz (for `legato edit`) and report.json. A killed run goes on where it was when the same command is started
again. What the generator cannot show it cannot restore: heads-128 has seen rendered heads alone.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato restore`."""
    parser = subparsers.add_parser(
        "restore",
        help="colorize, super-resolve, inpaint, denoise",
        description="Restores images and clips with the multi-code prior of a generator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=("colorize", "super-resolve", "inpaint", "denoise"), help="what is restored")
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="images, videos, folders of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--degrade", action="store_true", help="the inputs are clean: degrade them first, and measure")
    parser.add_argument("--restart", action="store_true", help="replace what an earlier run left in DIR for these")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")

    what = parser.add_argument_group("what happened to the pictures")
    what.add_argument("--mask", type=Path, metavar="FILE", help="a picture: white is to be filled, black is kept")
    what.add_argument(
        "--factor", type=int, choices=(2, 4, 8, 16), help="of super-resolve (default: from the first picture's size)"
    )
    what.add_argument(
        "--noise", type=_levels, metavar="X", help="its standard deviation, of 255 (default: estimated; 25 to degrade)"
    )
    what.add_argument(
        "--lost", type=_part, metavar="X", help="denoise --degrade: this part of the pixels is lost, as .8"
    )
    what.add_argument("--seed", type=int, default=0, help="of the noise and the lost pixels (default: %(default)s)")

    how = parser.add_argument_group("how, in place of what suits the task")
    how.add_argument("--codes", type=count, metavar="N", help="codes for each picture")
    how.add_argument("--steps", type=count, metavar="N", help="of the optimization")
    how.add_argument("--resolution", type=count, metavar="R", help="side of the block where the codes meet")
    how.add_argument("--samples", type=count, metavar="N", help="pictures that the encoder learns from (default: 1024)")
    how.add_argument("--roles", action="store_true", help="also roles.png: what each code does to the picture")
    _offline.add_model(parser)
    _offline.add_machine(parser)


def run(args: argparse.Namespace) -> int:
    """Restores. 0; 1 where an input could not be done; 130 interrupted. Raises LegatoError."""
    from rich.console import Console

    from legato.offline.restoring import RestoreJob, restore_item
    from legato.offline.running import run_all, say
    from legato.offline.sources import find
    from legato.offline.tasks import task_of
    from legato.offline.writing import write_json
    from legato.restoration.calibration import SAMPLES

    sources = find(args.inputs, leave_out=args.out)
    model = _offline.open_model(args)
    task = task_of(
        args.task,
        sources,
        model.resolution,
        factor=args.factor,
        mask=args.mask,
        noise=args.noise,
        lost=args.lost,
        degrade=args.degrade,
        seed=args.seed,
    )
    job = RestoreJob(
        model,
        task,
        args.out,
        codes=args.codes,
        steps=args.steps,
        resolution=args.resolution,
        samples=args.samples or SAMPLES,
        roles=args.roles,
        restart=args.restart,
    )
    try:
        reports, failed = run_all(
            sources, task.side(model.resolution), lambda item, progress: restore_item(item, job, say, progress)
        )
    except KeyboardInterrupt:
        return _offline.interrupted()
    report = {"inputs": reports, "not_done": failed}
    write_json(args.out / "report.json", report)
    if args.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    elif reports:
        Console().print(_table(reports, args.degrade))
        print(f"everything is in {args.out}")
    if failed:
        say(f"{len(failed)} inputs were not done or not whole: {', '.join(failed)}")
    return 1 if failed else 0


def _table(reports: list[dict[str, Any]], degraded: bool) -> Table:
    """A row for each source."""
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE)
    columns = {"name": "input", "frames": "frames", "seen_psnr_db": "seen dB"}
    if degraded:
        columns |= {"baseline_psnr_db": "baseline dB", "psnr_db": "restored dB"}
    columns |= {"seconds": "seconds"}
    for title in columns.values():
        shown.add_column(title, justify="left" if title == "input" else "right")
    for report in reports:
        shown.add_row(*(f"{value:.2f}" if isinstance(value := report[key], float) else str(value) for key in columns))
    return shown


def _levels(text: str) -> float:
    return _between(text, 0.0, 255.0, "a standard deviation in levels of 0..255, above 0")


def _part(text: str) -> float:
    return _between(text, 0.0, 1.0, "a part between 0 and 1")


def _between(text: str, low: float, high: float, wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low < value < high:
        raise argparse.ArgumentTypeError(f"{wanted}; got {text!r}")
    return value
