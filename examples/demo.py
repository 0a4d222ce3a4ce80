"""`make demo`: a real server, a real stream, and what came of it in out/demo.

Serves the default model in a process of its own, streams a clip through the client with one edit, and writes
reconstruction.mp4, edited.mp4, comparison.png, latents.npz and report.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import legato
from legato.images import fit
from legato_client import Client, Edit, InvalidImage, LegatoError, Outputs, Picture, Session
from legato_client.cli import edit_argument
from legato_client.clip import Filled, through
from legato_client.images import unpacked
from legato_client.local import local_server
from legato_client.media import MediaError, Shot, Source, open_sink, open_source
from legato_client.report import Meter, Report
from legato_client.types import Budget

ROOT = Path(__file__).resolve().parents[1]
EVERY = 12  # frames from one column of the comparison to the next
MOST_COLUMNS = 16
METRICS = ("frames_completed_total", "frames_on_time_total", "frame_age_seconds_sum", "refine_steps_sum")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; 0, or 1 with a message on stderr."""
    args = parser().parse_args(arguments)
    try:
        run(args)
    except (LegatoError, MediaError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--input", type=Path, help="a video, or a folder of PNG or JPEG (default: the model's clip)")
    options.add_argument("--model", default="heads-128", help="name or folder (default: %(default)s)")
    options.add_argument("--edit", type=edit_argument, default=Edit("smile", 2.0), metavar="NAME=STRENGTH")
    options.add_argument("--steps", type=int, default=0, help="gradient steps per frame (default: %(default)s)")
    options.add_argument("--out", type=Path, default=ROOT / "out" / "demo", help="(default: %(default)s)")
    return options


def run(args: argparse.Namespace) -> None:
    console, begun = Console(), time.monotonic()
    source = open_source(args.input or packaged_clip(args.model), Fraction(25))
    args.out.mkdir(parents=True, exist_ok=True)
    with local_server(args.model, max_steps=max(args.steps, 16)) as server, Client(server.address) as client:
        started = time.monotonic() - begun
        outputs = Outputs(latents=True, format="raw")
        meter = Meter()
        # Two in flight keep the server busy and the age of a frame short.
        with client.open(edits=[args.edit], budget=Budget(args.steps), outputs=outputs, in_flight=2) as session:
            kept = stream(session, source, meter, args.out)
        metrics = scrape(server.metrics_address)
    report = write_report(args, meter, kept, session)
    cv2.imwrite(str(args.out / "comparison.png"), comparison(kept, args.edit)[..., ::-1])
    np.savez_compressed(args.out / "latents.npz", latents=np.stack(kept.latents), model_digest=session.model.digest)
    console.print(table(report, metrics, args, session, started))
    console.print(f"server stopped in good order; everything is in {args.out}")


def packaged_clip(model: str) -> Path:
    """The clip that a model brings along."""
    folder = Path(model) if Path(model).is_dir() else Path(legato.__file__).parent / "assets" / model
    return folder / "clip.mp4"


@dataclass
class Kept:
    """What is kept of a stream for the comparison and the latents."""

    columns: list[tuple[int, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]] = field(default_factory=list)
    latents: list[NDArray[np.float32]] = field(default_factory=list)
    replaced: int = 0


def stream(session: Session, source: Source, meter: Meter, out: Path) -> Kept:
    """Every frame through the session and into both videos."""
    kept, inputs = Kept(), {}

    def frames() -> Iterator[tuple[Shot, Picture]]:
        for shot, picture in source.frames():
            if shot.index % EVERY == 0:
                inputs[shot.index] = picture
            yield shot, picture

    with (
        open_sink(out / "reconstruction.mp4", source.rate, source.tick) as reconstruction,
        open_sink(out / "edited.mp4", source.rate, source.tick) as edited,
    ):
        filled: Filled
        for filled in tqdm(through(session, frames(), meter), total=source.count, unit="frame", disable=None):
            result, shot = filled.result, filled.shot
            assert result.reconstruction is not None
            assert result.edited is not None
            assert result.latents is not None
            reconstruction.write(result.reconstruction, shot)
            edited.write(result.edited, shot)
            kept.latents.append(result.latents)
            kept.replaced += filled.replaced
            if shot.index in inputs:
                shown = fit(readable(inputs.pop(shot.index)), session.model.resolution)
                kept.columns.append((shot.index, shown, result.reconstruction.pixels, result.edited.pixels))
    return kept


def readable(picture: Picture) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB; a gray square for what is no image."""
    try:
        return unpacked(picture)
    except InvalidImage:
        return np.full((64, 64, 3), 128, np.uint8)


def comparison(kept: Kept, edit: Edit) -> NDArray[np.uint8]:
    """Rows: input, reconstruction, edit; a column for every twelfth frame (evenly fewer of a long clip)."""
    columns = kept.columns[:: -(-len(kept.columns) // MOST_COLUMNS)]
    side = columns[0][1].shape[0]
    scale = max(1, 128 // side)
    side *= scale
    labels = ("input", "reconstruction", f"{edit.direction} {edit.strength:+g}")
    left, top = 112, 24
    sheet = np.full((top + 3 * side, left + len(columns) * side, 3), 255, np.uint8)
    for row, label in enumerate(labels):
        write(sheet, label, 8, top + row * side + side // 2)
    for column, (index, *images) in enumerate(columns):
        write(sheet, str(index), left + column * side + 4, 16)
        for row, image in enumerate(images):
            y, x = top + row * side, left + column * side
            sheet[y : y + side, x : x + side] = image.repeat(scale, 0).repeat(scale, 1)
    return sheet


def write(sheet: NDArray[np.uint8], text: str, x: int, y: int) -> None:
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)


def scrape(address: str) -> dict[str, float]:
    """A few of the server's own figures, from its Prometheus page; those with labels are summed."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    found = dict.fromkeys(METRICS, 0.0)
    for line in lines:
        name, _, value = line.rpartition(" ")
        name = name.partition("{")[0].removeprefix("legato_")
        if name in found:
            found[name] += float(value)
    return found


def write_report(args: argparse.Namespace, meter: Meter, kept: Kept, session: Session) -> dict[str, Any]:
    figures: Report = meter.report(len(kept.latents), len(kept.latents))
    report = {
        **figures,
        "frames_replaced": kept.replaced,
        "model": session.model.name,
        "model_digest": session.model.digest,
        "edit": f"{args.edit.direction}={args.edit.strength:g}",
        "input": str(args.input or "the model's clip"),
        "commit": commit(),
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def commit() -> str:
    """Of the checkout, "+" at the end where it has changes; "unknown" outside of one."""
    git = ("git", "-C", str(ROOT))
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changes.stdout else "") if head.returncode == 0 else "unknown"


def table(
    report: dict[str, Any], metrics: dict[str, float], args: argparse.Namespace, session: Session, started: float
) -> Table:
    age, stages = report["frame_age_ms"], report["stage_ms"]
    rows = {
        "model": f"{session.model.name}, {session.model.resolution} px, sha256 {session.model.digest[:12]}",
        "frames in / out": f"{report['frames_in']} / {report['frames_out']} ({report['frames_replaced']} replaced)",
        "frames per second": f"{report['fps']:.1f}",
        "PSNR": f"{report['psnr_db']:.2f} dB",
        "edit": report["edit"],
        "refine steps": f"{report['steps']:g}",
        "frame age p50 / p95 / p99": f"{age['p50']:.0f} / {age['p95']:.0f} / {age['p99']:.0f} ms",
        "stages": ", ".join(f"{stage} {ms:.1f}" for stage, ms in stages.items()) + " ms",
        "server started in": f"{started:.1f} s",
        **{f"legato_{name}": f"{value:g}" for name, value in metrics.items()},
    }
    shown = Table("what", "value", title="legato demo")
    for name, value in rows.items():
        shown.add_row(name, value)
    return shown


if __name__ == "__main__":
    sys.exit(main())
