"""Editing on the shipped model: Style Intervention, directions found without labels and with, transfer between clips.

Everything is read by an attribute network that no loss and no fit has used. The networks are what `legato train` leaves
in its work folder: attributes-11.safetensors may be used by losses, attributes-12.safetensors judges.

Run it as `python -m benchmarks.bench_editing --networks FOLDER`; some ten minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import editing_found, editing_pictures, editing_region, editing_transfer
from benchmarks.editing_heads import FPS, FRAME, HEADS, STEPS, open_bench
from legato.benchmarks.stamp import stamp
from legato.editing.style_intervention import InterventionOptions
from legato.errors import LegatoError

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("intervention", "finding", "transfer")
SHOWN_HEADS = {  # of each attribute, for the picture
    "smile": 1,
    "mouth_open": 2,
    "blink": 4,
    "glasses": 5,
    "hair_tone": 9,
    "background_value": 11,
}
SHOWN_PAIRS = (0, 5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the parts asked for; those that are not stay in the result file as they were."""
    args = parser().parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        result = measure(args)
    except LegatoError as error:
        print(f"bench_editing: {error}", file=sys.stderr)
        return 1
    print(f"written to {args.out}")
    for shown in tables(result):
        Console().print(shown)
    return 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--networks", type=Path, required=True, help="folder with the two attribute networks")
    options.add_argument("--model", default="heads-128", help="name or folder (default: %(default)s)")
    options.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    options.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "editing.json")
    options.add_argument(
        "--pictures", type=Path, default=ROOT / "docs" / "images", help="folder (default: docs/images)"
    )
    return options


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Part by part, each written as soon as it is done."""
    result: dict[str, Any] = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    begun = time.perf_counter()

    def tell(line: str) -> None:
        print(f"{time.perf_counter() - begun:6.0f} s  {line}", flush=True)

    bench = open_bench(args.model, args.networks)
    tell(f"{len(bench.codes)} heads inverted")
    for part in args.only:
        seconds = time.perf_counter()
        if part == "intervention":
            figures, pictures = editing_region.run(bench, tell)
            target = args.pictures / "style_intervention.png"
            editing_pictures.style_intervention(bench, pictures, SHOWN_HEADS, target)
        elif part == "finding":
            figures, found = editing_found.run(bench, tell)
            del found
        else:
            figures, pairs = editing_transfer.run(bench, tell)
            editing_pictures.transfers(pairs, SHOWN_PAIRS, args.pictures / "transfer.png")
        result[part] = {
            "stamp": stamp(),
            "seconds": round(time.perf_counter() - seconds),
            "setting": setting(part, bench.generator.digest),
            "figures": figures,
        }
        result["benchmark"] = "editing"
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def setting(part: str, digest: str) -> dict[str, Any]:
    """What the figures of a part depend on."""
    told: dict[str, Any] = {
        "model_digest": digest,
        "heads": f"frame {FRAME} of clip 0 of identities 0 to {HEADS - 1} at {FPS:g} frames/s, split eval",
        "inversion": f"encoder + {STEPS} steps of W+",
    }
    if part == "intervention":
        options = InterventionOptions()
        told |= {name: getattr(options, name) for name in options.__dataclass_fields__}
        told["strength"] = editing_region.STRENGTH
    elif part == "finding":
        told |= {"samples": editing_found.SAMPLES, "principal_samples": editing_found.PRINCIPAL_SAMPLES}
    else:
        told |= {"frames": editing_transfer.FRAMES, "fps": editing_transfer.FPS, "steps": editing_transfer.STEPS}
    return told


def tables(result: dict[str, Any]) -> list[Table]:
    """What was measured, for people."""
    made = []
    if "intervention" in result:
        made.append(
            _table(
                "change outside the region, at the plain edit's equal response",
                (
                    "attribute",
                    "method",
                    "response",
                    "inside",
                    "outside",
                    "plain",
                    "times less",
                    "truth cosine",
                    "plain",
                ),
                [
                    (
                        attribute,
                        method,
                        figures["response"],
                        figures["inside"],
                        figures["outside"],
                        figures["plain_at_equal_response"]["outside"],
                        figures["times_less_outside"],
                        figures["truth_cosine"],
                        figures["plain_at_equal_response"]["truth_cosine"],
                    )
                    for attribute, methods in result["intervention"]["figures"].items()
                    for method, figures in methods.items()
                    if isinstance(figures, dict) and "times_less_outside" in figures
                ],
            )
        )
    if "finding" in result:
        rows = [
            (method, name, item["strength"], item["attribute"], item["response"], item["leakage"], item["selectivity"])
            for method, found in result["finding"]["figures"]["unsupervised"].items()
            for name, item in found.items()
        ]
        columns = ("method", "direction", "strength", "moves", "response", "leakage", "response / leakage")
        made.append(_table("directions without labels", columns, rows))
        labeled = [
            (attribute, method, item["strength"], item["response"], item["leakage"], item["worst"])
            for attribute, methods in result["finding"]["figures"]["labeled"].items()
            for method, item in methods.items()
        ]
        heading = ("attribute", "method", "strength", "response", "leakage", "most")
        made.append(_table("labeled directions: leakage for a response of 1", heading, labeled))
    if "transfer" in result:
        summary = result["transfer"]["figures"]["summary"]
        moved = [
            (steps, name, item["pairs"], item["correlation"], item["correlation_with_truth"], item["slope"])
            for steps, found in summary.items()
            for name, item in found.items()
            if "pairs" in item
        ]
        made.append(
            _table("transfer", ("steps", "attribute", "pairs", "correlation", "with the truth", "slope"), moved)
        )
    return made


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    shown = Table(title=title)
    for column in columns:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    return shown


if __name__ == "__main__":
    sys.exit(main())
