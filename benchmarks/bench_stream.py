"""One stream at the model's resolution: reconstruction and one edit back as JPEG, client and server on one machine.

Closed loop: as fast as answers come, two frames in flight; what the server can do. Open loop: frames at the pace of a
camera whether or not answers come; the age of a frame counts from the moment at which the camera gave it, so a stall
is paid by every frame that it delayed. The server's peak memory is the kernel's own count (VmHWM).

Run it as `python -m benchmarks.bench_stream`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import legato
from legato.benchmarks.stamp import stamp
from legato.images import fit
from legato_client import Client, FrameResult, LegatoError, Outputs, Session
from legato_client.cli import edit_argument
from legato_client.images import unpacked
from legato_client.local import LocalServer, local_server
from legato_client.media import MediaError, open_source
from legato_client.report import Meter, percentiles
from legato_client.types import Budget, Edit

ROOT = Path(__file__).resolve().parents[1]
Pixels = NDArray[np.uint8]
WARM_FRAMES = 20  # answered before the clock starts
RATES = (25, 30)  # frames per second of the open loop


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0, or 1 with a message on stderr."""
    args = parser().parse_args(arguments)
    try:
        result = measure(args)
    except (LegatoError, MediaError) as error:
        print(f"bench_stream: {error}", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    Console().print(table(result))
    print(f"written to {args.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="heads-128", help="name or folder (default: %(default)s)")
    options.add_argument("--input", type=Path, help="a clip (default: the model's own)")
    options.add_argument("--edit", type=edit_argument, default=Edit("smile", 2.0), metavar="NAME=STRENGTH")
    options.add_argument("--steps", type=int, nargs="+", default=[0, 1], help="refine steps (default: 0 1)")
    options.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default: %(default)s)")
    options.add_argument("--threads", type=int, default=0, help="of the server's model; 0: its default")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "stream.json")
    return options


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything, as the result file holds it."""
    with local_server(args.model, threads=args.threads) as server, Client(server.address) as client:
        model = client.list_models()[0]
        frames = clip_frames(args, model.resolution)
        runs = [measure_steps(client, frames, args.edit, steps, args.seconds) for steps in args.steps]
        memory = peak_memory_mib(server)
    return {
        "benchmark": "stream",
        "stamp": stamp(),
        "setting": {
            "model": model.name,
            "model_digest": model.digest,
            "resolution": model.resolution,
            "edit": f"{args.edit.direction}={args.edit.strength:g}",
            "frames_as": "raw",
            "outputs": "reconstruction and edited, JPEG 90",
            "seconds": args.seconds,
            "threads": args.threads,
        },
        "runs": runs,
        "server_peak_memory_mib": memory,
    }


def clip_frames(args: argparse.Namespace, resolution: int) -> list[Pixels]:
    """The clip at the model's resolution, in memory: disk and video decoder are not what is measured."""
    clip = Path(legato.__file__).parent / "assets" / args.model / "clip.mp4"
    source = open_source(args.input or clip, Fraction(25))
    return [fit(unpacked(picture), resolution) for _, picture in source.frames()]


def measure_steps(client: Client, frames: list[Pixels], edit: Edit, steps: int, seconds: float) -> dict[str, Any]:
    """Closed loop and both open loops at one number of refine steps, each in a session of its own."""

    def session(in_flight: int) -> Session:
        opened = client.open(edits=[edit], budget=Budget(steps), outputs=Outputs(), in_flight=in_flight)
        for _ in opened.stream(frames[:WARM_FRAMES]):
            pass
        return opened

    with session(in_flight=2) as stream:
        closed = closed_loop(stream, frames, seconds)
    result: dict[str, Any] = {"steps": steps, "closed_loop": closed, "open_loop": {}}
    for rate in RATES:
        with session(in_flight=0) as stream:
            result["open_loop"][str(rate)] = open_loop(stream, frames, rate, seconds)
    return result


def closed_loop(session: Session, frames: list[Pixels], seconds: float) -> dict[str, Any]:
    end = time.monotonic() + seconds

    def until_the_end() -> Iterator[Pixels]:
        index = 0
        while time.monotonic() < end:
            yield frames[index % len(frames)]
            index += 1

    meter, count = Meter(), 0
    for answer in session.stream(until_the_end()):
        meter.add(answer)
        count += 1
    report = meter.report(count, count)
    return {
        "frames": count,
        "fps": report["fps"],
        "psnr_db": report["psnr_db"],
        "frame_age_ms": report["frame_age_ms"],
        "stage_ms": report["stage_ms"],
    }


def open_loop(session: Session, frames: list[Pixels], rate: int, seconds: float) -> dict[str, Any]:
    due: list[float] = []  # monotonic seconds at which the camera gives the n-th frame
    begun = time.monotonic()

    def camera() -> Iterator[Pixels]:
        for index in range(round(rate * seconds)):
            due.append(begun + index / rate)
            time.sleep(max(0.0, due[-1] - time.monotonic()))
            yield frames[index % len(frames)]

    ages, missed = [], 0
    for answer in session.stream(camera()):
        if isinstance(answer, FrameResult):
            ages.append(time.monotonic() - due[answer.seq - WARM_FRAMES - 1])
        else:
            missed += 1
    fps = len(ages) / (time.monotonic() - begun)
    return {"frames": len(ages), "missed": missed, "fps": round(fps, 2), "frame_age_ms": percentiles(ages)}


def peak_memory_mib(server: LocalServer) -> float:
    """Of the server's process so far."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise LegatoError(f"the kernel tells no peak memory of process {server.process.pid}")


def table(result: dict[str, Any]) -> Table:
    stamped, setting = result["stamp"], result["setting"]
    shown = Table(title=f"one stream, {setting['resolution']} px, {stamped['cpus']} cores of {stamped['cpu']}")
    for column in ("refine steps", "loop", "frames/s", "age p50", "p95", "p99 (ms)"):
        shown.add_column(column, justify="left" if column == "loop" else "right")
    for run in result["runs"]:
        loops = {"closed": run["closed_loop"], **{f"open, {rate}": loop for rate, loop in run["open_loop"].items()}}
        for name, loop in loops.items():
            age = loop["frame_age_ms"]
            figures = (loop["fps"], age["p50"], age["p95"], age["p99"])
            shown.add_row(str(run["steps"]), name, *(f"{figure:.1f}" for figure in figures))
    shown.caption = f"server's peak memory {result['server_peak_memory_mib']:.0f} MiB, commit {stamped['commit'][:12]}"
    return shown


if __name__ == "__main__":
    sys.exit(main())
