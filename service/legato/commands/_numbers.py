"""Numbers on the command line, in their ranges, for argparse; each raises ArgumentTypeError that says the range."""

from __future__ import annotations

import argparse
import math
import re

MOST_SEED = 2**31 - 1


def count(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1, "a whole number of at least 1")


def whole(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0, "a whole number of at least 0")


def seed(text: str) -> int:
    """A whole number from 0 to 2^31 - 1."""
    return _whole(text, 0, "a whole number from 0 to 2^31 - 1", MOST_SEED)


def amount(text: str) -> float:
    """A finite number of at least 0."""
    if not 0 <= (value := _float(text)) < math.inf:
        raise _wanted("a number of at least 0", text)
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    if not 0 < (value := _float(text)) < math.inf:
        raise _wanted("a number above 0", text)
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= (value := _float(text)) <= 1:
        raise _wanted("a number from 0 to 1", text)
    return value


def layers(text: str) -> list[int]:
    """Numbers and ranges, as 8-11 or 0,3, in order."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise argparse.ArgumentTypeError(
                f"layers are numbers and ranges from 0 on, as in 8-11 or 0,3; got {text!r}"
            )
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return sorted(set(found))


def _whole(text: str, least: int, wanted: str, most: float = math.inf) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise _wanted(wanted, text)
    return int(text)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _wanted(wanted: str, text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{wanted} is wanted; got {text!r}")
