"""What a live stream waits for while a clip is inverted: `python -m benchmarks.bench_clip`.

One thread, and its CPU time is the clock: a frame of the stream is due every 1 / fps seconds of it and runs in the next
pause of the inversion, as in the server. So the figures do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import numpy as np
import torch

from legato.answering import to_pixels
from legato.editing.directions import load_directions
from legato.engine_options import EngineOptions, compute_dtype
from legato.inversion.method import parse_method
from legato.inversion.methods import Networks, invert_clips
from legato.inversion.pauses import pausing
from legato.models import load_encoder, load_generator
from legato.pipeline import Pipeline
from legato.types import Frame, FrameJob

MODEL = "heads-128"
WARM_FRAMES, ALONE_FRAMES = 8, 30


class Enough(Exception):
    """All frames of the stream were answered."""


class Stream:
    """Frames that come at their times; `between` answers those that are due."""

    def __init__(self, pipeline: Pipeline, frames: list[Frame], fps: float, count: int) -> None:
        self._pipeline, self._frames, self._period, self._count = pipeline, frames, 1.0 / fps, count
        self._begun = math.inf
        self.waits: list[float] = []
        self.ages: list[float] = []

    def answer(self, number: int) -> None:
        """One frame through the pipeline, without refine steps."""
        self._pipeline.run([FrameJob(0, number, self._frames[number % len(self._frames)])])

    def begin(self) -> None:
        """The first frame is due now."""
        self._begun = time.thread_time()

    def between(self) -> None:
        """A pause of the inversion."""
        while (due := self._begun + len(self.ages) * self._period) <= (now := time.thread_time()):
            self.waits.append(now - due)
            self.answer(len(self.ages))
            self.ages.append(time.thread_time() - due)
            if len(self.ages) == self._count:
                raise Enough


def measure(fps: float, count: int, length: int, rows: int) -> dict[str, float]:
    """Milliseconds of CPU time of one thread, beside the inversion of a clip of `length` frames."""
    generator, encoder = load_generator(MODEL), load_encoder(MODEL)
    pipeline = Pipeline(
        generator, encoder, load_directions(MODEL), slots=1, dtype=compute_dtype("auto", generator.w_avg.device)
    )
    with torch.no_grad():
        z = torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
        first, last = generator.map(z, 0.7)
        codes = torch.stack([torch.lerp(first, last, n / length) for n in range(length)])
        clip = torch.cat([generator(part) for part in codes.split(8)]).clamp(-1.0, 1.0)
    stream = Stream(pipeline, [Frame(pixels) for pixels in to_pixels(clip)], fps, count)
    for number in range(WARM_FRAMES):
        stream.answer(number)
    alone = []
    for number in range(ALONE_FRAMES):
        began = time.thread_time()
        stream.answer(number)
        alone.append(time.thread_time() - began)
    taken = 0

    def step(done: int, total: int) -> None:
        nonlocal taken
        taken = done
        if done == 1:
            stream.begin()

    ended = began = time.thread_time()
    try:
        with pausing(stream.between, rows):
            invert_clips(Networks(generator, encoder), [clip], parse_method("consecutive:steps=100000"), on_step=step)
    except Enough:
        ended = time.thread_time()
    figures = {
        "frame_alone_p50": np.percentile(alone, 50),
        "wait_p50": np.percentile(stream.waits, 50),
        "wait_p95": np.percentile(stream.waits, 95),
        "wait_max": max(stream.waits),
        "age_p50": np.percentile(stream.ages, 50),
        "age_p95": np.percentile(stream.ages, 95),
        "clip_step": (ended - began - sum(stream.ages) + sum(stream.waits)) / max(taken, 1),
    }
    return {name: round(float(seconds) * 1e3, 1) for name, seconds in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fps", type=float, default=25.0, help="of the stream (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=150, help="of the stream (default: %(default)s)")
    parser.add_argument("--clip", type=int, default=64, help="frames of the clip (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=EngineOptions().clip_rows, help="(default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({**vars(args), "milliseconds": measure(args.fps, args.frames, args.clip, args.rows)}, indent=2))


if __name__ == "__main__":
    main()
