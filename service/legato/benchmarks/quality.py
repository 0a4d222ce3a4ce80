"""What generator passes buy a stream: closeness and steadiness on held-out clips, beside independent frames and W+."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from legato.answering import to_pixels
from legato.benchmarks.held_out import HeldOut, Tell, change_error
from legato.benchmarks.served import Pixels
from legato.errors import LegatoError
from legato.inversion.method import parse_method
from legato.inversion.methods import Networks, invert_clips
from legato.losses import psnr
from legato.models import Generator
from legato.pipeline import Pipeline
from legato.types import FrameJob

NEAR_PASSES = 6  # generator passes a frame at which a stream is compared with free W+
SIDE_BY_SIDE = 4  # clips that are streamed together


@dataclass(frozen=True, slots=True)
class QualityOptions:
    steps: tuple[int, ...] = (0, 1, 2, 4, 8)
    free_steps: int = 150  # of W+
    every: int = 10  # n-th frame is inverted freely: that is slow


class Passes:
    """Counts what goes through a generator: images forward, gradients backward."""

    def __init__(self, generator: Generator) -> None:
        self._last = generator.synthesis.block(generator.config.resolution)
        self.forward = self.backward = 0

    @contextmanager
    def counted(self) -> Iterator[Passes]:
        def back(gradient: Tensor) -> None:
            self.backward += gradient.shape[0]

        def seen(module: object, inputs: object, features: Any) -> None:
            self.forward += features.rgb.shape[0]
            if features.rgb.requires_grad:
                features.rgb.register_hook(back)

        handle = self._last.register_forward_hook(seen)
        try:
            yield self
        finally:
            handle.remove()

    @property
    def total(self) -> int:
        return self.forward + self.backward


@dataclass(slots=True)
class Figures:
    """Of the frames of some clips."""

    db: list[list[float]]  # PSNR by clip and frame
    change: list[float]  # dT by clip
    passes: int = 0

    def add(self, other: Figures) -> None:
        self.db += other.db
        self.change += other.change
        self.passes += other.passes

    @property
    def passes_per_frame(self) -> float:
        return self.passes / sum(len(clip) for clip in self.db)

    def told(self) -> dict[str, float | None]:
        return {
            "psnr_db": round(mean(self.db), 3),
            "change_error": round(sum(self.change) / len(self.change), 6) if self.change else None,
            "passes": round(self.passes_per_frame, 3),
        }


def measure(
    pipeline: Pipeline, clips: Sequence[HeldOut], options: QualityOptions, tell: Tell, *, in_time: Any = lambda: True
) -> dict[str, Any]:
    """Streams the clips frame by frame with every number of steps; SIDE_BY_SIDE at a time while `in_time()`."""
    kinds = ("stream", "independent")
    found = {kind: {k: Figures([], []) for k in options.steps} for kind in kinds}
    encoder, free = Figures([], []), Figures([], [])
    done = 0
    while done < len(clips) and (not done or in_time()):
        group = clips[done : done + SIDE_BY_SIDE]
        for k in options.steps:
            tell(f"{k} steps", done, len(clips))
            for kind in kinds:
                found[kind][k].add(_run(pipeline, group, k, carried=kind == "stream"))
        tell("encoder and free W+", done, len(clips))
        encoder.add(_inverted(pipeline, group, "encoder", 1))
        free.add(_inverted(pipeline, group, f"w_plus:steps={options.free_steps}", options.every))
        done += len(group)
    tell("", done, len(clips))
    curves = {kind: {str(k): figures.told() for k, figures in by.items()} for kind, by in found.items()}
    return {
        "clips": done,
        "frames": sum(len(clip.frames) for clip in clips[:done]),
        "clips_left_out_for_time": len(clips) - done,
        **curves,
        "encoder": encoder.told(),
        "free_w_plus": {**free.told(), "steps": options.free_steps, "every": options.every},
        **_near(found, free, options),
    }


def _near(found: dict[str, dict[int, Figures]], free: Figures, options: QualityOptions) -> dict[str, Any]:
    """The best stream of few passes, on the frames that were inverted freely, and beside independent frames."""
    near = {k: figures for k, figures in found["stream"].items() if figures.passes_per_frame <= NEAR_PASSES}
    if not near:
        return {"near": None}
    sampled = {k: mean([clip[_every(options.every, len(clip))] for clip in figures.db]) for k, figures in near.items()}
    best = max(sampled, key=sampled.__getitem__)
    whole = mean(near[best].db)
    return {
        "near": {
            "steps": best,
            "passes": round(near[best].passes_per_frame, 3),
            "psnr_db": round(whole, 3),
            "gap_to_free_w_plus_db": round(mean(free.db) - sampled[best], 3),
            "gain_over_independent_db": round(whole - mean(found["independent"][best].db), 3),
        }
    }


def _run(pipeline: Pipeline, clips: Sequence[HeldOut], steps: int, *, carried: bool) -> Figures:
    """Every frame in its order; `carried`: as streams, otherwise each frame for itself."""
    shown: list[list[Pixels]] = [[] for _ in clips]
    db: list[list[float]] = [[] for _ in clips]
    for slot in range(len(clips)):
        pipeline.reset(slot)
    passes = Passes(pipeline.generator)
    with passes.counted():
        for number in range(max(len(clip.frames) for clip in clips)):
            rows = [row for row, clip in enumerate(clips) if number < len(clip.frames)]
            jobs = [
                FrameJob(row if carried else -1, number, clips[row].frames[number], max_steps=steps) for row in rows
            ]
            for row, answer in zip(rows, pipeline.run(jobs), strict=True):
                if isinstance(answer, LegatoError) or answer.reconstruction is None:
                    raise answer if isinstance(answer, LegatoError) else LegatoError("a frame came without a picture")
                shown[row].append(answer.reconstruction)
                db[row].append(answer.psnr_db)
    change = [change_error(pictures, clip) for pictures, clip in zip(shown, clips, strict=True)]
    return Figures(db, change, passes.total)


def _inverted(pipeline: Pipeline, clips: Sequence[HeldOut], method: str, every: int) -> Figures:
    """Each `every`-th frame for itself by an offline method; dT of all frames alone."""
    networks = Networks(pipeline.generator, pipeline.encoder)
    images = [clip.images[_every(every, len(clip.images))] for clip in clips]
    outcome = invert_clips(networks, images, parse_method(method))
    db, change = [], []
    for clip, wanted, inverted in zip(clips, images, outcome.clips, strict=True):
        drawn = inverted.images(pipeline.generator)
        db.append(psnr(drawn, wanted).tolist())
        change += [change_error(list(to_pixels(drawn)), clip)] if every == 1 else []
    return Figures(db, change, outcome.passes)


def _every(n: int, frames: int) -> slice:
    """Each n-th frame of a clip, from the middle of the first n: the first frame, which is far behind in a stream that
    has only begun, counts no more than any other."""
    return slice(min(n, frames) // 2, None, n)


def mean(values: Sequence[Sequence[float]]) -> float:
    """Over the frames of all clips."""
    flat = [value for some in values for value in some]
    return sum(flat) / len(flat)
