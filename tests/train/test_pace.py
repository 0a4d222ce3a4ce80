"""What is told of the time that a training takes, from a clock that is given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from legato.train.console import ESTIMATE_SECONDS, Estimate
from legato.train.pace import SPARED, duration, images_within


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (41 * 60, "41 min"), (5400, "1.5 h")]
)
def test_duration(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_images_within_are_whole_batches() -> None:
    assert images_within(100.0, 60.0, 16) == int(6000 * (1 - SPARED)) // 16 * 16
    assert images_within(0.01, 60.0, 16) == 16


def test_the_estimate_is_told_once_and_leaves_out_the_first_step() -> None:
    times: Iterator[float] = iter([100.0, 100.0 + ESTIMATE_SECONDS / 2, 100.0 + ESTIMATE_SECONDS, 1e6])
    estimate = Estimate(total=6_416, done=400, clock=lambda: next(times))
    told = [estimate(8) for _ in range(4)]
    assert told[:2] == [None, None]
    left = duration(5_992 / (16 / ESTIMATE_SECONDS))
    assert told[2] == f"at 1.6 images a second the remaining 5,992 images take about {left}"
    assert told[3] is None


def test_a_training_that_goes_on_counts_what_is_left() -> None:
    times = iter([0.0, ESTIMATE_SECONDS])
    estimate = Estimate(total=100, done=80, clock=lambda: next(times))
    estimate(5)
    assert str(estimate(5)).endswith("the remaining 10 images take about 20 s")
