"""`legato bench engine`: speed, quality, the window and overload of the engine, against what it is meant to reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from legato.benchmarks import quality, speed, window
from legato.benchmarks.held_out import Tell, held_out, own_clip, written
from legato.benchmarks.served import Build, pipeline_of, started
from legato.benchmarks.stamp import stamp
from legato.config import EngineConfig
from legato.errors import InvalidInput, LegatoError
from legato.pipeline import Pipeline
from legato.threads import apart
from legato.types import Edit
from legato_client.local import local_server

SECTIONS = ("stream", "speed", "quality", "window", "overload")
QUALITY_FPS = 25.0
OVERLOAD_TIMES = 3.0
NO_TIME = {"gain_db": None, "reason": "no time was left (--minutes)"}


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and how much of it."""

    model: str = "heads-128"
    sections: tuple[str, ...] = SECTIONS
    clips: int = 12
    frames: int = 50  # of each clip
    seconds: float = 5.0
    rounds: int = 5
    window_clips: int = 6
    window_seconds: float = 8.0
    every: int = 10  # n-th frame is inverted freely
    budget: float = 0.2  # seconds to an answer under overload
    threads: int = 0
    minutes: float | None = None
    quick: bool = False
    cache: Path = Path(".")
    edit: Edit | None = None
    speed: speed.SpeedOptions = field(default_factory=speed.SpeedOptions)


@dataclass(frozen=True, slots=True)
class Limit:
    """How long it may take; what does not fit is left out, and told."""

    begun: float
    seconds: float

    def left(self, share: float = 1.0) -> Callable[[], bool]:
        """Whether less than `share` of the time has gone."""
        return lambda: time.monotonic() - self.begun < share * self.seconds


def run(options: Options, build: Build, tell: Tell) -> dict[str, Any]:
    """Measures every section that was asked for. Raises ConfigError, ModelFileError, and what a server's start does."""
    limit = Limit(time.monotonic(), 60.0 * options.minutes if options.minutes else float("inf"))
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = EngineConfig(model=options.model, threads=options.threads)
    result: dict[str, Any] = {"benchmark": "engine", "stamp": stamp()}
    pipeline = pipeline_of(apart(build, settings))
    edit = options.edit or _first(pipeline)
    result["setting"] = _setting(options, settings, pipeline, edit)
    found: dict[str, Any] = {}
    if {"stream", "speed", "overload"} & set(options.sections):
        found |= _served(options, build, settings, pipeline, edit, tell, limit)
    if "quality" in options.sections:
        found["quality"] = apart(_quality, options, pipeline, tell, limit)
    if "window" in options.sections:
        in_time = limit.left(0.8)()
        found["window"] = _window(options, build, settings, pipeline, tell) if in_time else dict(NO_TIME)
    return {**result, "minutes": round((time.monotonic() - limit.begun) / 60, 1), "summary": summarize(found), **found}


def _served(
    options: Options,
    build: Build,
    settings: EngineConfig,
    pipeline: Pipeline,
    edit: Edit,
    tell: Tell,
    limit: Limit,
) -> dict[str, Any]:
    frames = apart(own_clip, options.model, pipeline)
    chosen = replace(options.speed, seconds=options.seconds, rounds=options.rounds)
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        clip = stack.enter_context(written(frames))
        server = stack.enter_context(local_server(options.model, threads=options.threads))
        engine = stack.enter_context(started(build, settings))
        bench = speed.Bench(server.address, server.metrics_address, engine, pipeline, clip, frames, edit)
        if "stream" in options.sections:
            found["stream"] = speed.one_stream(bench, chosen, tell)
        if {"speed", "overload"} & set(options.sections):
            found["speed"] = speed.measure(bench, chosen, tell, in_time=limit.left(0.4))
        if "overload" in options.sections:
            tell("overload", 0, 1)
            capacity = found["speed"]["fps"][f"served/{chosen.batch}/{chosen.steps[0]}"]
            found["overload"] = speed.overload(
                bench,
                capacity,
                times=OVERLOAD_TIMES,
                sessions=chosen.batch,
                seconds=options.seconds,
                budget=options.budget,
            )
        found["server_peak_memory_mib"] = peak_memory_mib(server.process.pid)
    return found


def _quality(options: Options, pipeline: Pipeline, tell: Tell, limit: Limit) -> dict[str, Any]:
    size, chosen = pipeline.resolution, quality.QualityOptions(every=options.every)
    clips = held_out(size, options.cache, clips=options.clips, frames=options.frames, fps=QUALITY_FPS, tell=tell)
    return quality.measure(pipeline, clips, chosen, tell, in_time=limit.left(0.6))


def _window(options: Options, build: Build, settings: EngineConfig, pipeline: Pipeline, tell: Tell) -> dict[str, Any]:
    chosen = window.WindowOptions()
    if not window.present():
        return {"gain_db": None, "reason": window.ABSENT}
    clips = apart(
        held_out,
        pipeline.resolution,
        options.cache,
        clips=options.window_clips,
        frames=round(options.window_seconds * chosen.fps),
        fps=chosen.fps,
        tell=tell,
    )
    return window.measure(build, settings, clips, chosen, tell)


def summarize(found: dict[str, Any]) -> dict[str, Any]:
    """The figures that are held against bars; None for what was not measured.

    overhead_ratio is the worst over batches and steps, against a bare pipeline that encodes no picture.
    """
    fps = found.get("speed", {}).get("fps", {})
    stream = {str(run["steps"]): run["closed"]["fps"] for run in found.get("stream", [])}
    curves = found.get("quality", {}).get("stream", {})
    near = found.get("quality", {}).get("near") or {}
    overload = found.get("overload")
    return {
        "fps_steps0": fps.get("served/1/0", stream.get("0")),
        "fps_steps1": fps.get("served/1/1", stream.get("1")),
        "overhead_ratio": min(found["speed"]["overhead"].values()) if fps else None,
        "batching_ratio": found["speed"]["batching"]["engine"] if fps else None,
        "psnr_by_passes": [{"steps": int(k), **figures} for k, figures in curves.items()],
        "gap_to_free_w_plus_db": near.get("gap_to_free_w_plus_db"),
        "gain_over_independent_db": near.get("gain_over_independent_db"),
        "window_gain_db": found.get("window", {}).get("gain_db"),
        "overload_age_p99_ms": overload["age_ms"]["p99"] if overload and overload["age_ms"] else None,
        "overload_untold": overload["untold"] if overload else None,
    }


def _first(pipeline: Pipeline) -> Edit:
    names = pipeline.directions.names
    if not names:
        raise InvalidInput("the model has no direction to edit along; make some with `legato directions`")
    return Edit("smile" if "smile" in names else names[0], 2.0)


def _setting(options: Options, settings: EngineConfig, pipeline: Pipeline, edit: Edit) -> dict[str, Any]:
    return {
        "model": Path(options.model).name,
        "model_digest": pipeline.generator.digest,
        "resolution": pipeline.resolution,
        "dtype": str(pipeline.generator.autocast_dtype or torch.float32).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "edit": f"{edit.direction}={edit.strength:g}",
        "frames_as": "raw",
        "outputs": f"reconstruction and edited, JPEG {speed.JPEG_QUALITY}",
        "quick": options.quick,
        "sections": list(options.sections),
        "rendered_clips": options.clips,
        "frames_of_a_clip": options.frames,
        "seconds": options.seconds,
        "batch_buckets": list(settings.batch_buckets),
    }


def peak_memory_mib(process: int) -> float:
    """The kernel's own count (VmHWM). Raises LegatoError where it tells none."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise LegatoError(f"the kernel tells no peak memory of process {process}")
