"""Steady crops: the One-Euro filter with real timestamps, on the parameters of the crop.

One-Euro (Casiez et al., CHI 2012): a first-order low-pass whose cutoff grows with speed,
f_c = min_cutoff + beta |dx/dt|, so that what rests is still and what moves fast hardly lags. Where some frames are
known ahead, a second pass comes from them back to the frame, and the mean of both does not lag.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from legato_align.geometry import Similarity, wrapped

Values = NDArray[np.float64]
T = TypeVar("T")

LOCK_SECONDS = 1.0
_SPEED_CUTOFF = 1.0  # Hz


@dataclass(frozen=True, slots=True)
class Steadiness:
    """How steady a crop is. Positions count in crop sides, size as its logarithm, angles in radians.

    min_cutoff: Hz at rest; lower is steadier. beta: Hz per unit / s; higher lags less when it moves.
    scale_cutoff: min_cutoff of size and angle. dead_band: size and angle rest until they leave it.
    lock_scale: the size of the first second is kept until a cut. smooth: False takes every detection as it is.
    """

    min_cutoff: float = 1.0
    beta: float = 1.0
    scale_cutoff: float = 0.3
    dead_band: float = 0.005
    lock_scale: bool = False
    smooth: bool = True

    def __post_init__(self) -> None:
        for name in ("min_cutoff", "scale_cutoff"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is a frequency in Hz, above 0; got {getattr(self, name)}")
        if not (math.isfinite(self.beta) and self.beta >= 0 and 0 <= self.dead_band < 1):
            raise ValueError(f"beta >= 0 and 0 <= dead_band < 1; got {self.beta} and {self.dead_band}")


class OneEuro:
    """The filter for a vector of values, each with its own min_cutoff (Hz). Times in seconds, any spacing."""

    def __init__(self, min_cutoff: Values, beta: float) -> None:
        self._min_cutoff, self._beta = min_cutoff, beta
        self._value: Values | None = None
        self._before = self._speed = np.zeros_like(min_cutoff)
        self._time = 0.0

    def __call__(self, value: Values, time: float) -> Values:
        """The smoothed value; the first is taken as it is. A time that does not advance changes nothing."""
        if self._value is None:
            self._value, self._before, self._time = value, value, time
            return value
        step = time - self._time
        if step > 0:
            speed = (value - self._before) / step
            self._speed = self._speed + gain(_SPEED_CUTOFF, step) * (speed - self._speed)
            cutoff = self._min_cutoff + self._beta * np.abs(self._speed)
            self._value = self._value + gain(cutoff, step) * (value - self._value)
            self._before, self._time = value, time
        return self._value


def gain(cutoff: Values | float, step: float) -> Values:
    """How far a first-order low-pass of this cutoff (Hz) goes towards a new value within `step` seconds."""
    turned = 2 * math.pi * np.asarray(cutoff, np.float64) * step
    return np.asarray(turned / (turned + 1), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[T]):
    item: T
    time: float
    values: Values
    forward: Values


class Smoother(Generic[T]):
    """Crops of one subject, each with the item that it belongs to, smoothed; given back `ahead` seconds later.

    With ahead = 0 every crop comes back at once.
    """

    def __init__(self, options: Steadiness, ahead: float = 0.0) -> None:
        if not (math.isfinite(ahead) and ahead >= 0):
            raise ValueError(f"ahead is a time in seconds, 0 or more; got {ahead}")
        self._options, self._ahead = options, ahead
        self._queue: deque[_Waiting[T]] = deque()
        self._unit = self._begun = self._last_angle = 0.0
        self._shown: Values | None = None  # log side and angle
        self._locked: list[float] = []
        self._filter = self._fresh()

    def push(self, item: T, time: float, crop: Similarity) -> list[tuple[T, Similarity]]:
        """Takes the next crop; gives back those that have seen enough of what comes after them."""
        if self._unit == 0:
            self._unit, self._begun = crop.side, time
        values = self._values(crop)
        self._last_angle = float(values[3])
        self._queue.append(_Waiting(item, time, values, self._filter(values, time)))
        ready = []
        while self._queue and self._queue[0].time <= time - self._ahead + 1e-9:
            ready.append(self._next())
        return ready

    def flush(self) -> list[tuple[T, Similarity]]:
        """The crops that still wait; what comes next is another subject's, or after a cut."""
        ready = [self._next() for _ in range(len(self._queue))]
        self._restart()
        return ready

    def _restart(self) -> None:
        self._filter = self._fresh()
        self._unit = self._begun = self._last_angle = 0.0
        self._shown, self._locked = None, []

    def _fresh(self) -> OneEuro:
        slow, fast = self._options.scale_cutoff, self._options.min_cutoff
        return OneEuro(np.array([fast, fast, slow, slow]), self._options.beta)

    def _values(self, crop: Similarity) -> Values:
        angle = self._last_angle + wrapped(crop.angle - self._last_angle)
        return np.array([crop.x / self._unit, crop.y / self._unit, math.log(crop.side), angle])

    def _next(self) -> tuple[T, Similarity]:
        first = self._queue[0]
        values = first.forward if self._options.smooth else first.values
        if self._options.smooth and len(self._queue) > 1:
            back = self._fresh()
            for later in reversed(self._queue):  # its times run backwards: negated they advance
                backward = back(later.values, -later.time)
            values = (values + backward) / 2
        self._queue.popleft()
        return first.item, self._crop(values, first.time)

    def _crop(self, values: Values, time: float) -> Similarity:
        options, rest = self._options, values[2:]
        if options.smooth and self._shown is not None:
            off = rest - self._shown
            rest = self._shown + np.sign(off) * np.maximum(np.abs(off) - options.dead_band, 0)
        self._shown = rest
        size = float(rest[0])
        if options.lock_scale:
            if time - self._begun <= LOCK_SECONDS:
                self._locked.append(size)
            size = sum(self._locked) / len(self._locked)
        x, y = values[:2] * self._unit
        return Similarity(float(x), float(y), math.exp(size), wrapped(float(rest[1])))
