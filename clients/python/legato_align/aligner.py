"""Frames in time to their steady crops: what the client and the server call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from legato_align.detectors.base import Detector
from legato_align.geometry import Pixels, Similarity, centered
from legato_align.smoothing import Smoother, Steadiness
from legato_align.tracking import HOLD_SECONDS, Found, Tracker

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where a frame's crop lies, and how that is known.

    aligned: the crop is a face's; otherwise the middle square of the frame. held: no detection in this frame, the crop
    was carried on from earlier ones. confidence: 0..1, of the detector, falling while held.
    """

    crop: Similarity
    aligned: bool
    held: bool
    confidence: float


class Aligner:
    """One subject of one stream. `align` answers each frame at once; `ahead_of` sees some frames ahead.

    framing: scale and shift downwards (in sides) from FFHQ's crop to the model's own.
    Raises ValueError for settings that cannot be.
    """

    def __init__(
        self,
        detector: Detector,
        steadiness: Steadiness | None = None,
        *,
        every: int = 1,
        hold_seconds: float = HOLD_SECONDS,
        framing: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        if not (0.25 <= framing[0] <= 4 and -0.5 <= framing[1] <= 0.5):
            raise ValueError(f"a framing's scale lies in 0.25..4 and its shift in -0.5..0.5; got {framing}")
        self.steadiness = steadiness or Steadiness()
        self._tracker = Tracker(detector, every=every, hold_seconds=hold_seconds, raw=not self.steadiness.smooth)
        self._framing = framing
        self._smoother: Smoother[Found] = Smoother(self.steadiness)

    def align(self, frame: Pixels, time: float) -> Alignment:
        """The crop of the next frame, uint8 [H, W, 3] RGB, at `time` in seconds."""
        found = self._tracker.find(frame, time)
        if found.begins or found.crop is None:
            self._smoother.flush()
        if found.crop is None:
            return _unaligned(frame)
        ((_, crop),) = self._smoother.push(found, time, found.crop)
        return self._alignment(crop, found)

    def ahead_of(
        self, items: Iterable[T], frame_of: Callable[[T], tuple[Pixels, float]], ahead: float
    ) -> Iterator[tuple[T, Alignment]]:
        """Every item with its alignment, in order, `ahead` seconds late: crops then lag behind nothing.

        frame_of: the frame and its time in seconds of an item.
        """
        smoother: Smoother[tuple[T, Found]] = Smoother(self.steadiness, ahead)

        def told(ready: list[tuple[tuple[T, Found], Similarity]]) -> Iterator[tuple[T, Alignment]]:
            for (item, found), crop in ready:
                yield item, self._alignment(crop, found)

        for item in items:
            frame, time = frame_of(item)
            found = self._tracker.find(frame, time)
            if found.begins or found.crop is None:
                yield from told(smoother.flush())
            if found.crop is None:
                yield item, _unaligned(frame)
            else:
                yield from told(smoother.push((item, found), time, found.crop))
        yield from told(smoother.flush())

    def _alignment(self, crop: Similarity, found: Found) -> Alignment:
        return Alignment(crop.framed(*self._framing), True, found.held, found.confidence)


def _unaligned(frame: Pixels) -> Alignment:
    return Alignment(centered(frame.shape[1], frame.shape[0]), False, False, 0.0)
