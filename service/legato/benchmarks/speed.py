"""Frames/s of the served path: one stream, 8 sessions, beside the bare pipeline; and how old frames get.

Every figure is the median over rounds that run all contenders in turn, so that a machine that slows down for a while
slows all of them. Client, server and what stands beside them share the machine; those that wait use none of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import simplejpeg

from legato.benchmarks.held_out import Tell
from legato.benchmarks.served import Pixels, alone, bare_loop, batches, closed_loop, mean_batches, put_load
from legato.engine import Engine
from legato.pipeline import Pipeline
from legato.types import Edit, Frame

JPEG_QUALITY = 90  # what the client asks for unless told otherwise
FEWEST_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class SpeedOptions:
    steps: tuple[int, ...] = (0, 1)
    batch: int = 8
    rates: tuple[float, ...] = (25.0, 30.0)  # of the open loop of one stream
    seconds: float = 5.0  # of each measurement
    rounds: int = 5


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What is raced: a server in a process of its own, and in this one an engine and a pipeline that serve nobody."""

    address: str
    metrics: str
    engine: Engine
    pipeline: Pipeline
    clip: Path
    frames: Sequence[Frame]  # the same clip, at the model's resolution
    edit: Edit

    def load(self, **options: object) -> dict[str, Any]:
        """Figures of a load on the server, with the mean batch of each stage."""
        before = batches(self.metrics)
        edit = f"{self.edit.direction}={self.edit.strength}"
        figures = put_load(self.address, self.clip, edit=edit, **options)
        return {**figures, "batches": mean_batches(before, batches(self.metrics))}


def as_jpeg(pixels: Pixels) -> bytes:
    """As the server encodes it."""
    data: bytes = simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444")
    return data


def contenders(bench: Bench, options: SpeedOptions) -> dict[str, Callable[[], float]]:
    """Each gives its frames/s of one round; named `who/sessions or batch/steps`."""
    edits, seconds = (bench.edit,), options.seconds
    found: dict[str, Callable[[], float]] = {}
    for count, steps in [(1, k) for k in options.steps] + [(options.batch, options.steps[0])]:
        bare = partial(bare_loop, bench.pipeline, bench.frames, count, seconds, steps=steps, edits=edits)
        found[f"served/{count}/{steps}"] = partial(_served, bench, count, steps, seconds)
        found[f"engine/{count}/{steps}"] = partial(
            closed_loop, bench.engine, bench.frames, count, seconds, steps=steps, edits=edits
        )
        found[f"bare/{count}/{steps}"] = partial(alone, bench.engine, bare)
        found[f"bare+jpeg/{count}/{steps}"] = partial(alone, bench.engine, partial(bare, encode=as_jpeg))
    return found


def _served(bench: Bench, sessions: int, steps: int, seconds: float) -> float:
    return float(bench.load(sessions=sessions, steps=steps, seconds=seconds, fps=0)["fps"])


def measure(bench: Bench, options: SpeedOptions, tell: Tell, *, in_time: Callable[[], bool]) -> dict[str, Any]:
    """Medians over rounds, and their ratios; at least FEWEST_ROUNDS of them, more while `in_time()`."""
    racers = contenders(bench, options)
    rounds: list[dict[str, float]] = []
    while len(rounds) < options.rounds and (len(rounds) < FEWEST_ROUNDS or in_time()):
        names = list(racers)
        shift = len(rounds) % len(names)
        done = {}
        for number, name in enumerate(names[shift:] + names[:shift]):
            tell(name, len(rounds) * len(names) + number, options.rounds * len(names))
            done[name] = racers[name]()
        rounds.append(done)
    tell("", options.rounds * len(racers), options.rounds * len(racers))
    fps = {name: round(statistics.median(each[name] for each in rounds), 2) for name in racers}
    return {"fps": fps, "rounds": [{k: round(v, 2) for k, v in each.items()} for each in rounds], **ratios(fps)}


def ratios(fps: dict[str, float]) -> dict[str, Any]:
    """What the medians say of each other.

    overhead: served frames/s over the bare pipeline's at the same batch, steps and outputs; the served ones are
    decoded and encoded as JPEG, the bare ones are not, or in the same thread (`with_jpeg`).
    batching: several sessions over one.
    """
    shapes = [name.partition("/")[2] for name in fps if name.startswith("served/")]
    most = max(int(shape.partition("/")[0]) for shape in shapes)
    many = next(shape for shape in shapes if int(shape.partition("/")[0]) == most)
    one = f"1/{many.partition('/')[2]}"
    return {
        "overhead": {shape: round(fps[f"served/{shape}"] / fps[f"bare/{shape}"], 3) for shape in shapes},
        "overhead_with_jpeg": {shape: round(fps[f"served/{shape}"] / fps[f"bare+jpeg/{shape}"], 3) for shape in shapes},
        "batching": {who: round(fps[f"{who}/{many}"] / fps[f"{who}/{one}"], 3) for who in ("engine", "served", "bare")},
    }


def one_stream(bench: Bench, options: SpeedOptions, tell: Tell) -> list[dict[str, Any]]:
    """One session at each number of steps: as fast as answers come, and at the pace of cameras."""
    loops = [0.0, *options.rates]
    runs = []
    for place, steps in enumerate(options.steps):
        run: dict[str, Any] = {"steps": steps}
        for number, rate in enumerate(loops):
            name = f"open_{rate:g}" if rate else "closed"
            tell(f"one stream, {steps} steps, {name}", place * len(loops) + number, len(options.steps) * len(loops))
            figures = bench.load(sessions=1, steps=steps, seconds=options.seconds, fps=rate)
            run[name] = {key: figures[key] for key in KEPT}
        runs.append(run)
    return runs


KEPT = ("fps", "offered", "answered", "dropped", "age_ms", "server_ms", "stage_ms", "steps", "psnr_db", "load_cpus")


def overload(bench: Bench, capacity: float, *, times: float, sessions: int, seconds: float, budget: float) -> Any:
    """`times` the capacity (frames/s), from sessions of the policy LATEST that ask for 4 steps within `budget` seconds.

    kept: whether 99 of 100 answered frames were no older than the budget, and no frame was left without a word.
    """
    figures = bench.load(
        sessions=sessions,
        fps=times * capacity / sessions,
        seconds=seconds,
        steps=4,
        policy="latest",
        deadline=1e3 * budget,
    )
    age = figures["age_ms"]
    kept = ("offered", "answered", "dropped", "failed", "unsent", "untold", "fps", "age_ms", "server_ms", "steps")
    return {
        "times": times,
        "sessions": sessions,
        "offered_fps": round(times * capacity, 1),
        "budget_ms": 1e3 * budget,
        **{key: figures[key] for key in (*kept, "psnr_db", "batches", "by_second")},
        "kept": bool(age and age["p99"] <= 1e3 * budget and figures["untold"] == 0),
    }
