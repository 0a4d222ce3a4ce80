"""What a detector is, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from legato_align.geometry import Pixels, Points, Similarity, ffhq, from_box, from_eyes


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face in a frame, in its pixels. `score` lies in 0..1 and compares faces of one detector only.

    box: x, y, width, height. eyes: their middles [2, 2], the left one in the picture first. mouth: its middle [2].
    box_side, box_down: where FFHQ's crop lies about a box of this detector (see `geometry.from_box`).
    """

    box: tuple[float, float, float, float]
    score: float
    eyes: Points | None = None
    mouth: Points | None = None
    box_side: float = 1.6
    box_down: float = 0.44

    @property
    def crop(self) -> Similarity:
        """The FFHQ crop, from the best that is known: eyes and mouth, eyes, or the box (upright then)."""
        if self.eyes is None:
            return from_box(self.box, self.box_side, self.box_down)
        return from_eyes(self.eyes) if self.mouth is None else ffhq(self.eyes, self.mouth)


class Detector(Protocol):
    """Finds faces. `name` says by what; `note` what a user should know of its limits, or is empty."""

    name: str
    note: str

    def find(self, frame: Pixels, near: Similarity | None) -> list[Face]:
        """Faces of a frame, uint8 [H, W, 3] RGB, the best first. `near`: the crop in which one is expected."""
        ...


def window(frame: Pixels, near: Similarity | None, reach: float) -> tuple[Pixels, int, int]:
    """The part of a frame within `reach` crop sides of the middle of `near`, and its left upper corner (x, y)."""
    if near is None:
        return frame, 0, 0
    half = reach * near.side
    height, width = frame.shape[:2]
    left, top = max(0, int(near.x - half)), max(0, int(near.y - half))
    right, bottom = min(width, int(near.x + half) + 1), min(height, int(near.y + half) + 1)
    if right - left < 16 or bottom - top < 16:
        return frame, 0, 0
    return frame[top:bottom, left:right], left, top


def points(values: object) -> Points:
    return np.asarray(values, np.float64).reshape(-1, 2)
