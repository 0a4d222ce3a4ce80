"""The engine alone on a GPU: how many streams of 30 frames a second it holds, and what of the GPU's time is lost.

config-f generators of random weights with an encoder, at 256, 512 and 1024 px; frames of noise, reconstructions asked
for, with 0 and with 4 refine steps. Everything runs in this process, without encoding of images and without a network.

saturated   every session sends its next frame when the last one is answered: frames a second, and the share of the time
            between the first kernel and the last one in which no kernel ran, by torch.profiler (on CUDA)
held        sessions send at 30 frames a second, whatever comes back, evenly spread: the most sessions of those tried
            for which 99 of 100 ages, submission to answer, stay within 33 ms, all steps taken
floor       what the convolutions of the network alone would allow: for each layer the larger of its time to compute at
            790 TFLOP/s and its time to move its data at 4.3 TB/s, batches of 8, without encoder, loss or transfers

Run it as `python -m benchmarks.gpu_engine --device cuda --out FILE`; `--tiny` is a small net for a short time.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from legato.benchmarks.stamp import stamp
from legato.editing.directions import Directions
from legato.engine import Engine
from legato.engine_options import EngineOptions
from legato.errors import LegatoError, Overloaded
from legato.models import Encoder, EncoderConfig, Generator, GeneratorConfig
from legato.ops import require_backends
from legato.scheduler import Scheduler
from legato.types import Frame, FrameAnswer, FrameJob

FPS = 30.0
AGE = 0.033  # seconds
STEPS = (0, 4)
TRIED = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2, 0.1)  # of the sessions that the saturated engine would serve
FLOOR = {  # resolution: seconds an image, a step (forward and backward)
    256: (927.4e-6 / 8, 1870.4e-6 / 8),
    512: (1251.9e-6 / 8, 2519.5e-6 / 8),
    1024: (1637.5e-6 / 8, 3635.0e-6 / 8),
}


@dataclass(frozen=True)
class Plan:
    """What is run, for how long."""

    resolutions: tuple[int, ...]
    buckets: tuple[int, ...]
    sessions: int  # at most
    seconds: float  # of one measurement
    channel_base: int = 32768
    channel_max: int = 512
    dim: int = 512


FULL = Plan((256, 512, 1024), (1, 2, 4, 8, 16), 256, 1.5)
TINY = Plan((64,), (1, 2), 4, 0.3, channel_base=256, channel_max=16, dim=16)


def build(plan: Plan, resolution: int, device: torch.device) -> Engine:
    torch.manual_seed(0)
    sizes = {"channel_base": plan.channel_base, "channel_max": plan.channel_max}
    generator = Generator(GeneratorConfig(resolution, plan.dim, plan.dim, **sizes)).to(device)
    encoder = Encoder(EncoderConfig(resolution, generator.num_layers, plan.dim)).to(device)
    sessions = min(plan.sessions, plan.sessions * 256 // resolution)
    return Engine(
        generator,
        encoder,
        Directions({}, {}, generator_digest=""),
        queue=Scheduler(capacity=4 * sessions, buckets=plan.buckets, max_wait=0.002, in_flight=4 * plan.buckets[-1]),
        options=EngineOptions(max_sessions=sessions, batch_buckets=plan.buckets, in_flight=4 * plan.buckets[-1]),
    )


class Load:
    """Sessions that send frames to an engine, and the ages of what came back."""

    def __init__(self, engine: Engine, sessions: int, steps: int) -> None:
        self.engine, self.steps = engine, steps
        self.slots = [engine.open_slot() for _ in range(sessions)]
        r = engine.model.resolution
        noise = np.random.default_rng(0).integers(0, 256, (4, r, r, 3), np.uint8)
        self.frames = [Frame(pixels) for pixels in noise]
        self.ages: list[float] = []  # appended to on the engine's thread
        self.failed = 0
        self._idle = threading.Condition()
        self._out = 0

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *error: object) -> None:
        with self._idle:
            self._idle.wait_for(lambda: not self._out, 30.0)
        for slot in self.slots:
            self.engine.close_slot(slot)

    def send(self, slot: int, seq: int, then: Callable[[], None] = lambda: None) -> None:
        sent = time.perf_counter()

        def done(result: FrameAnswer | LegatoError) -> None:
            good = isinstance(result, FrameAnswer) and result.steps == self.steps
            self.ages.append(time.perf_counter() - sent if good else np.inf)
            self.failed += not good
            then()
            with self._idle:
                self._out -= 1
                self._idle.notify()

        job = FrameJob(slot, seq, self.frames[seq % len(self.frames)], max_steps=self.steps)
        with self._idle:
            self._out += 1
        try:
            self.engine.submit(job, done)
        except Overloaded:
            done(LegatoError("refused"))

    def saturate(self, seconds: float) -> float:
        """Frames a second, two of each session on their way."""
        until, self.ages = time.perf_counter() + seconds, []
        began = time.perf_counter()

        def go_on(slot: int, seq: int) -> None:
            if time.perf_counter() < until:
                self.send(slot, seq, lambda: go_on(slot, seq + 2))

        for slot in self.slots:
            for seq in (1, 2):
                go_on(slot, seq)
        with self._idle:
            self._idle.wait_for(lambda: not self._out)
        return (len(self.ages) - self.failed) / (time.perf_counter() - began)

    def pace(self, seconds: float) -> dict[str, float]:
        """Ages of frames that come at FPS."""
        self.ages, count = [], len(self.slots)
        began = time.perf_counter()
        for n in range(int(seconds * FPS * count)):
            if (wait := began + n / (FPS * count) - time.perf_counter()) > 0:
                time.sleep(wait)
            self.send(self.slots[n % count], 1 + n // count)
        with self._idle:
            self._idle.wait_for(lambda: not self._out, 30.0)
        p50, p99 = np.quantile(self.ages or [np.inf], (0.5, 0.99), method="higher")
        return {"sessions": count, "p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99, "failed": self.failed}


def idle_share(run: Callable[[], Any]) -> float | None:
    """Of the time between the first kernel and the last one, how much no kernel ran in; None without a GPU."""
    if not torch.cuda.is_available():
        run()
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    on_gpu = [e for e in profile.events() or [] if e.device_type.name == "CUDA"]
    kernels = sorted((e.time_range.start, e.time_range.end) for e in on_gpu if not e.name.startswith("Mem"))
    if not kernels:
        return None
    busy, end = 0.0, kernels[0][0]
    for start, stop in kernels:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return float(1.0 - busy / (end - kernels[0][0]))


def measure(plan: Plan, resolution: int, device: torch.device, enough: Callable[[], bool]) -> list[dict[str, Any]]:
    engine = build(plan, resolution, device)
    began = time.perf_counter()
    engine.start()
    ready, rows = time.perf_counter() - began, []
    graphs = {name: list(counts) for name, counts in engine._pipeline.runner.prepared().items()}
    try:
        for steps in STEPS:
            if enough():
                break
            with Load(engine, min(engine.capacity, 4 * plan.buckets[-1]), steps) as load:
                load.saturate(0.3)
                fps = load.saturate(plan.seconds)
                lost = idle_share(partial(load.saturate, 0.3))
            row: dict[str, Any] = {"resolution": resolution, "steps": steps, "ready_seconds": ready, "graphs": graphs}
            row |= {"saturated_fps": fps, "lost_share": lost, "tried": [], "held": 0}
            if resolution in FLOOR:
                image, step = FLOOR[resolution]
                row["floor_streams"] = int(1.0 / (FPS * (image + steps * step)))
            for share in TRIED:
                sessions = max(1, min(engine.capacity, int(share * fps / FPS)))
                if enough() or (row["tried"] and sessions == row["tried"][-1]["sessions"]):
                    continue
                with Load(engine, sessions, steps) as load:
                    row["tried"].append(load.pace(plan.seconds))
                if row["tried"][-1]["p99_ms"] <= 1e3 * AGE:
                    row["held"] = sessions
                    break
            rows.append(row)
            print(json.dumps({key: row[key] for key in row if key != "tried"}), flush=True)
    finally:
        engine.stop(5.0)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--minutes", type=float, default=2.5, help="what does not fit is left out and told")
    parser.add_argument("--tiny", action="store_true", help="a small net, to see that it runs")
    args = parser.parse_args()
    plan, device = (TINY if args.tiny else FULL), torch.device(args.device)
    require_backends(device)
    until = time.monotonic() + 60.0 * args.minutes
    rows: list[dict[str, Any]] = []
    left_out: list[int] = []
    for resolution in plan.resolutions:
        if time.monotonic() >= until:
            left_out.append(resolution)
            continue
        rows += measure(plan, resolution, device, lambda: time.monotonic() >= until)
        result = {"stamp": stamp(), "fps": FPS, "age_ms": 1e3 * AGE, "results": rows, "left_out": left_out}
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(f"{len(rows)} of {len(STEPS) * len(plan.resolutions)} measured; left out: {left_out or 'none'}")
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
