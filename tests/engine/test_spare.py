"""The share of time that windows get."""

from __future__ import annotations

import math

import pytest

from legato.spare import CREDIT_SECONDS, SpareTime
from tests.tolerances import SHARE_OF_TIME


def test_work_takes_its_share_of_the_time_that_passes() -> None:
    spare, now, worked = SpareTime(0.25), 100.0, 0.0
    while now < 200.0:
        wait = spare.wait(now)
        if wait <= 0.0:
            spare.spent(0.01)
            worked, now = worked + 0.01, now + 0.01
        else:
            now += wait
    assert worked / 100.0 == pytest.approx(0.25, abs=SHARE_OF_TIME)


@pytest.mark.parametrize("busy", [0, 8, 20, 36])  # milliseconds of 40
def test_what_frames_take_is_not_shared(busy: int) -> None:
    spare, worked = SpareTime(0.5), 0.0
    for begin in range(0, 100_000, 40):
        spare.taken(busy / 1e3)
        for now in range(begin + busy, begin + 40):
            if spare.wait(now / 1e3) <= 0.0:
                spare.spent(1e-3)
                worked += 1e-3
    assert worked / 100.0 == pytest.approx(0.5 * (1.0 - busy / 40), abs=SHARE_OF_TIME)


def test_a_long_rest_saves_up_a_little_only() -> None:
    spare = SpareTime(0.5)
    assert spare.wait(0.0) == 0.0
    spare.wait(1000.0)
    spare.spent(CREDIT_SECONDS + 0.1)
    assert spare.wait(1000.0) == pytest.approx(0.2)


def test_no_share_never_allows() -> None:
    assert SpareTime(0.0).wait(5.0) == math.inf
