"""Steady crops: jitter goes, motion stays, times are real, nothing is lost on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from legato_align.geometry import Similarity
from legato_align.smoothing import OneEuro, Smoother, Steadiness
from tests.align.placed import jitter, path
from tests.tolerances import CROP_ROUNDING


def smoothed(
    crops: Sequence[Similarity], times: NDArray[np.float64], options: Steadiness | None = None, ahead: float = 0.0
) -> list[Similarity]:
    smoother: Smoother[int] = Smoother(options or Steadiness(), ahead)
    found = []
    for index, (crop, time) in enumerate(zip(crops, times, strict=True)):
        found += smoother.push(index, float(time), crop)
    found += smoother.flush()
    assert [index for index, _ in found] == list(range(len(crops)))
    return [crop for _, crop in found]


def centers(crops: Sequence[Similarity]) -> NDArray[np.float64]:
    return np.array([(crop.x, crop.y) for crop in crops])


def noisy(times: NDArray[np.float64], pixels: float) -> list[Similarity]:
    random = np.random.default_rng(1)
    shaken = []
    for time in times:
        true = path(float(time))
        dx, dy = random.normal(0, pixels, 2)
        shaken.append(Similarity(true.x + dx, true.y + dy, true.side * math.exp(random.normal(0, 0.02)), true.angle))
    return shaken


def test_a_face_at_rest_is_still() -> None:
    times = np.arange(50) / 25
    rest = Similarity(100.0, 80.0, 120.0, 0.1)
    for crop in smoothed([rest] * 50, times):
        np.testing.assert_allclose([crop.x, crop.y, crop.side, crop.angle], [100, 80, 120, 0.1], **CROP_ROUNDING)


@pytest.mark.parametrize("ahead", [0.0, 0.3])
def test_jitter_falls_at_least_five_times(ahead: float) -> None:
    """At uneven times, as phones write them."""
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.06, 200))
    shaken = noisy(times, 1.5)
    steady = smoothed(shaken, times, ahead=ahead)
    assert jitter(centers(shaken)) > 5 * jitter(centers(steady))
    sides = [np.diff(np.log([crop.side for crop in crops]), 2).std() for crops in (shaken, steady)]
    assert sides[0] > 5 * sides[1]


def test_frames_ahead_take_the_lag_away() -> None:
    times = np.arange(200) / 25
    true = [path(float(time)) for time in times]
    behind, level = (centers(smoothed(true, times, ahead=ahead)) for ahead in (0.0, 0.3))
    error = [np.abs(found - centers(true))[20:-20].mean() for found in (behind, level)]
    assert error[1] < error[0] / 3
    assert error[1] < 1.0


def test_the_rate_of_frames_does_not_matter() -> None:
    """The same motion at 25 and at 50 frames a second comes out alike: times are real, not counted."""
    slow, fast = np.arange(100) / 25, np.arange(200) / 50
    a = centers(smoothed([path(float(t)) for t in slow], slow))
    b = centers(smoothed([path(float(t)) for t in fast], fast))[::2]
    assert np.abs(a - b).max() < 0.1 * np.abs(a - centers([path(float(t)) for t in slow])).max() + 0.5


def test_a_locked_size_stays_and_the_place_follows() -> None:
    times = np.arange(150) / 25
    found = smoothed([path(float(time)) for time in times], times, Steadiness(lock_scale=True))
    sides = {round(crop.side, 9) for crop in found[26:]}
    assert len(sides) == 1
    assert np.ptp(centers(found)[:, 0]) > 30
    free = smoothed([path(float(time)) for time in times], times)
    assert np.ptp([crop.side for crop in free]) > 5


def test_a_turn_through_the_half_circle_has_no_jump() -> None:
    times = np.arange(60) / 25
    found = smoothed([Similarity(0.0, 0.0, 10.0, math.pi - 0.3 + 0.01 * n) for n in range(60)], times)
    turns = [math.remainder(b.angle - a.angle, 2 * math.pi) for a, b in pairwise(found)]
    assert max(abs(turn) for turn in turns) < 0.02


def test_time_that_stands_still_changes_nothing() -> None:
    one = OneEuro(np.array([1.0]), 1.0)
    first = one(np.array([3.0]), 5.0)
    assert one(np.array([9.0]), 5.0) == first
    assert first < one(np.array([9.0]), 5.1) < 9


def test_unsmoothed_is_what_was_found() -> None:
    times = np.arange(20) / 25
    shaken = noisy(times, 2.0)
    for ahead in (0.0, 0.2):
        found = smoothed(shaken, times, Steadiness(smooth=False), ahead)
        np.testing.assert_allclose(centers(found), centers(shaken), **CROP_ROUNDING)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_cutoff": 0.0}, "min_cutoff is a frequency in Hz, above 0"),
        ({"scale_cutoff": math.nan}, "scale_cutoff is a frequency"),
        ({"beta": -1.0}, "beta >= 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Steadiness(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ahead is a time in seconds"):
        Smoother(Steadiness(), -1.0)
