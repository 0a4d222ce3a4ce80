"""`legato bench server`: how many cameras a server holds, by an open-loop load from a process of its own.

A session is held where 99 of 100 of its answered frames are no older than a frame period, counted from the moment at
which its camera gave them, and 99 of 100 frames are answered. The number of sessions doubles until the server holds
not all of them, then the gap is halved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from legato.benchmarks.engine import peak_memory_mib
from legato.benchmarks.held_out import Tell
from legato.benchmarks.served import batches, mean_batches, put_load
from legato.benchmarks.stamp import stamp
from legato.errors import ConfigError
from legato_client.local import local_server

REST_SECONDS = 1.5  # between two loads; a server that was overloaded takes nobody for a second


@dataclass(frozen=True, slots=True)
class Options:
    """Where, what load, how far."""

    model: str = "heads-128"
    address: str = ""  # of a server that runs; empty: one is started
    metrics: str = ""  # its Prometheus page; empty: batch sizes are not told
    steps: tuple[int, ...] = (0, 1, 4)
    fps: float = 25.0
    seconds: float = 10.0
    most: int = 64  # sessions
    policy: str = "latest"
    deadline: float | None = None  # seconds; None: a frame period
    edit: str = "smile=2"
    clip: Path | None = None
    threads: int = 0
    quick: bool = False
    refine: bool = True  # halve the gap between the last number that was held and the first that was not

    def __post_init__(self) -> None:
        if not (self.fps > 0 and self.seconds > 0 and self.most >= 1 and self.steps):
            raise ConfigError("a sweep has a frame rate, a time, sessions and steps; got none of one of them")


def run(options: Options, tell: Tell) -> dict[str, Any]:
    """Sweeps the sessions for each number of steps. Raises LegatoError where the server cannot be started or loaded."""
    with ExitStack() as stack:
        process = None
        address, metrics = options.address, options.metrics
        if not address:
            server = stack.enter_context(
                local_server(
                    options.model,
                    max_sessions=options.most,
                    queue_size=4 * options.most,
                    in_flight=max(32, options.most),
                    threads=options.threads,
                )
            )
            address, metrics, process = server.address, server.metrics_address, server.process.pid
        curves = {}
        for steps in options.steps:
            points = sweep(partial(_point, address, metrics, options, steps, tell), options)
            curves[str(steps)] = {"held": knee(points), "points": points}
        memory = peak_memory_mib(process) if process else None
    return {
        "benchmark": "server",
        "stamp": stamp(),
        "setting": _setting(options),
        "summary": summarize(curves),
        "curves": curves,
        "server_peak_memory_mib": memory,
    }


def sweep(measure: Callable[[int], dict[str, Any]], options: Options) -> list[dict[str, Any]]:
    """Points in the order of their sessions, around the number at which the server stops to hold all of them."""
    points: dict[int, dict[str, Any]] = {}
    count = 1
    while count <= options.most:
        points[count] = measure(count)
        if not _holds(points[count]):
            break
        count *= 2
    low, high = count // 2, count
    while options.refine and high <= options.most and high - low > max(1, low // 8):
        middle = (low + high) // 2
        points[middle] = measure(middle)
        low, high = (middle, high) if _holds(points[middle]) else (low, middle)
    if count * 2 <= options.most and count in points and not _holds(points[count]):
        points[count * 2] = measure(count * 2)  # what overload looks like
    return [points[number] for number in sorted(points)]


def knee(points: list[dict[str, Any]]) -> int:
    """The most sessions that were all held; 0 where one was not."""
    held = 0
    for point in points:
        if not _holds(point):
            break
        held = point["sessions"]
    return held


def _holds(point: dict[str, Any]) -> bool:
    return bool(point["held"] == point["sessions"] and not point["refused"])


def _point(address: str, metrics: str, options: Options, steps: int, tell: Tell, sessions: int) -> dict[str, Any]:
    tell(f"{steps} steps, {sessions} sessions", sessions, options.most)
    time.sleep(REST_SECONDS)
    before = batches(metrics) if metrics else {}
    figures = put_load(
        address,
        options.clip,
        sessions=sessions,
        fps=options.fps,
        seconds=options.seconds,
        steps=steps,
        policy=options.policy,
        deadline=1e3 * _deadline(options),
        edit=options.edit,
    )
    missed = figures["offered"] - figures["answered"]
    return {
        **figures,
        "batches": mean_batches(before, batches(metrics)) if metrics else None,
        "missed_share": round(missed / max(figures["offered"], 1), 4),
    }


def _deadline(options: Options) -> float:
    return 1.0 / options.fps if options.deadline is None else options.deadline


def summarize(curves: dict[str, Any]) -> dict[str, Any]:
    """By steps asked for: sessions held, and what they got there."""
    found = {}
    for steps, curve in curves.items():
        there = next((point for point in curve["points"] if point["sessions"] == curve["held"]), None)
        keys = ("fps", "steps", "psnr_db", "age_ms", "batches", "load_cpus")
        found[steps] = {
            "sessions_held": curve["held"],
            "at_the_knee": {key: there[key] for key in keys} if there else None,
            "most_fps": max(point["fps"] for point in curve["points"]),
            "untold": sum(point["untold"] for point in curve["points"]),
        }
    return found


def _setting(options: Options) -> dict[str, Any]:
    return {
        "model": Path(options.model).name if not options.address else "of the running server",
        "address": options.address or "a server of its own, on this machine",
        "fps": options.fps,
        "seconds": options.seconds,
        "policy": options.policy,
        "deadline_ms": round(1e3 * _deadline(options), 2),
        "edit": options.edit,
        "outputs": "reconstruction and edited, JPEG 90",
        "threads": options.threads,
        "quick": options.quick,
    }
