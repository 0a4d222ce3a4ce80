"""Numbers on the command line: what is taken, and what the refusal says."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from legato.commands._numbers import amount, count, positive, seed, whole


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (count, "1", 1),
        (count, "20000", 20000),
        (whole, "0", 0),
        (seed, "2147483647", 2**31 - 1),
        (amount, "0", 0.0),
        (amount, "1e-4", 1e-4),
        (positive, ".5", 0.5),
    ],
)
def test_taken(kind: Callable[[str], float], text: str, value: float) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "refused", "wanted"),
    [
        (count, ("0", "-1", "1.0", "1_0", " 3", "many", ""), "a whole number of at least 1"),
        (whole, ("-1", "x"), "a whole number of at least 0"),
        (seed, ("-1", "2147483648"), "a whole number from 0 to 2^31 - 1"),
        (amount, ("-0.1", "nan", "inf", "x"), "a number of at least 0"),
        (positive, ("0", "nan", "inf", "x"), "a number above 0"),
    ],
)
def test_refused(kind: Callable[[str], float], refused: tuple[str, ...], wanted: str) -> None:
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            kind(text)
        assert str(caught.value) == f"{wanted} is wanted; got {text!r}"
