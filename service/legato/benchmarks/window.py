"""What the background window gives a stream in idle compute: quality over time, and what a viewer would see jump."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from legato.benchmarks.held_out import HeldOut, Tell
from legato.benchmarks.quality import mean
from legato.benchmarks.served import PATIENCE_SECONDS, Build, Pixels, open_slots, started
from legato.config import EngineConfig
from legato.engine import Engine
from legato.errors import LegatoError
from legato.types import FrameAnswer, FrameJob

SHARE = "window_share"  # of EngineConfig: the share of compute that the window may take, 0: off
RESIDUAL = "residual_steps"  # of EngineConfig: steps of the residual encoder on every frame
ABSENT = f"this engine has no background window: EngineConfig has no {SHARE}"


@dataclass(frozen=True, slots=True)
class WindowOptions:
    fps: float = 15.0
    after: float = 5.0  # seconds after which quality is compared


@dataclass(slots=True)
class Watched:
    """One stream in real time."""

    db: list[float]
    ages: list[float]
    moves: list[float]  # mean change of the picture where the real frame stayed as it was, levels of 255


def present() -> bool:
    """Whether this engine has a background window."""
    return SHARE in {item.name for item in fields(EngineConfig)}


def variants(settings: EngineConfig) -> dict[str, EngineConfig]:
    """Engines to compare: the encoder alone with and without the window, and, where a model's residual encoder would
    run on every frame, what is served with and without it."""
    known = {item.name for item in fields(EngineConfig)}
    share = getattr(settings, SHARE, 0.0) or 1.0

    def chosen(**values: Any) -> EngineConfig:
        return replace(settings, **{name: value for name, value in values.items() if name in known})

    found = {f"encoder_{name}": chosen(**{RESIDUAL: 0, SHARE: part}) for name, part in (("off", 0.0), ("on", share))}
    if getattr(settings, RESIDUAL, 0):
        found |= {f"served_{name}": chosen(**{SHARE: part}) for name, part in (("off", 0.0), ("on", share))}
    return found


def measure(
    build: Build, settings: EngineConfig, clips: Sequence[HeldOut], options: WindowOptions, tell: Tell
) -> dict[str, Any]:
    """Each clip as one stream at its pace, without gradient steps on the frame, in each of the variants."""
    streams: dict[str, list[Watched]] = {}
    for name, chosen in variants(settings).items():
        with started(build, chosen) as engine:
            streams[name] = []
            for number, clip in enumerate(clips):
                tell(f"window: {name.replace('_', ', ')}", number, len(clips))
                streams[name].append(watch(engine, clip, options.fps))
    after = round(options.after * options.fps)
    late = {name: mean([one.db[after:] for one in watched]) for name, watched in streams.items()}
    served = round(late["served_on"] - late["served_off"], 3) if "served_on" in late else None
    return {
        "gain_db": round(late["encoder_on"] - late["encoder_off"], 3),
        "gain_served_db": served,
        "fps": options.fps,
        "after_seconds": options.after,
        "clips": len(clips),
        "streams": {
            name: {**_told(watched, options.fps), "late_psnr_db": round(late[name], 3)}
            for name, watched in streams.items()
        },
    }


def watch(engine: Engine, clip: HeldOut, fps: float) -> Watched:
    """Frames at their times, whether or not answers come. Raises the error of a frame that failed."""
    answered: queue.SimpleQueue[tuple[float, FrameAnswer | LegatoError]] = queue.SimpleQueue()
    with open_slots(engine, 1) as (slot,):
        begun = time.monotonic()
        for number, frame in enumerate(clip.frames):
            due = begun + number / fps
            time.sleep(max(0.0, due - time.monotonic()))
            job = FrameJob(slot, number + 1, frame, arrival=due, deadline=due + 1.0 / fps)
            engine.submit(job, lambda answer: answered.put((time.monotonic(), answer)))
        answers = [answered.get(timeout=PATIENCE_SECONDS) for _ in clip.frames]
    shown: list[Pixels] = []
    found = Watched([], [], [])
    for number, (when, answer) in enumerate(answers):
        if isinstance(answer, LegatoError) or answer.reconstruction is None:
            raise answer if isinstance(answer, LegatoError) else LegatoError("a frame came without a picture")
        found.db.append(answer.psnr_db)
        found.ages.append(when - begun - number / fps)
        shown.append(answer.reconstruction)
    for before, after, real, then in zip(shown, shown[1:], clip.frames, clip.frames[1:], strict=False):
        still = (real.pixels == then.pixels).all(-1)
        moved = np.abs(after.astype(np.int16) - before.astype(np.int16)).mean(-1)
        found.moves.append(float(moved[still].mean()) if still.any() else 0.0)
    return found


def _told(streams: Sequence[Watched], fps: float) -> dict[str, Any]:
    seconds = int(min(len(one.db) for one in streams) / fps)
    parts = [slice(round(n * fps), round((n + 1) * fps)) for n in range(seconds)]
    moves = np.array([move for one in streams for move in one.moves])
    return {
        "psnr_db_by_second": [round(mean([one.db[part] for one in streams]), 3) for part in parts],
        "age_p95_ms": round(float(np.percentile([age for one in streams for age in one.ages], 95)) * 1e3, 2),
        "still_regions_change_levels": {"mean": round(float(moves.mean()), 4), "most": round(float(moves.max()), 4)},
    }
