"""How fast a training runs on this machine, and so how long it takes, or how much fits into a time."""

from __future__ import annotations

import time

import torch

from legato.train.training import Training

WARM_STEPS = 2  # the first ones allocate and choose algorithms
MEASURED_STEPS, MEASURED_SECONDS = 5, 6.0  # at least, and until then
SPARED = 0.1  # of a time, for reports and the export


def images_a_second(training: Training, *, seconds: float = MEASURED_SECONDS) -> float:
    """Over some steps, which the training really takes: give one that is thrown away."""
    for _ in range(WARM_STEPS):
        training.step()
        training.steps += 1
    _wait(training)
    begun, images, steps = time.perf_counter(), 0, 0
    while steps < MEASURED_STEPS or time.perf_counter() - begun < seconds:
        images += training.step()[0]
        training.steps += 1
        steps += 1
        _wait(training)
    return images / (time.perf_counter() - begun)


def images_within(rate: float, seconds: float, batch: int) -> int:
    """How many images, in whole batches, `rate` images a second come to; some of the time is spared for reports."""
    return max(1, int(rate * seconds * (1 - SPARED)) // batch) * batch


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _wait(training: Training) -> None:
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
