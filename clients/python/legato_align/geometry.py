"""From a face to its crop: the alignment of FFHQ as one similarity transform, and pictures through it.

Positions are pixels with centers at integers, x to the right and y down. With the eyes' middle e, the vector d_e from
the left eye in the picture to the right one, the mouth's middle m and d_m = m - e, the crop is the square whose half
side is the vector x = d_e + perp(d_m), perp(a, b) = (b, -a), of length max(2.0 |d_e|, 1.8 |d_m|), and whose center is
e + 0.1 d_m (Karras et al., "A Style-Based Generator Architecture for GANs", CVPR 2019, appendix C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]

EYES_APART = 0.246  # of the crop's side, as in FFHQ's mean face
MOUTH_BELOW = 0.2563  # eyes' middle to mouth's middle, of the crop's side


@dataclass(frozen=True, slots=True)
class Similarity:
    """A square crop of a frame: its center (x, y) and side in pixels, and its angle in radians, clockwise as seen."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def __post_init__(self) -> None:
        if not (all(map(math.isfinite, (self.x, self.y, self.side, self.angle))) and self.side > 0):
            raise ValueError(f"a crop has a finite center and angle and a positive side; got {self}")

    def matrix(self, resolution: int) -> NDArray[np.float64]:
        """[2, 3]: pixel of the R x R crop -> pixel of the frame."""
        scale = self.side / resolution
        cos, sin = scale * math.cos(self.angle), scale * math.sin(self.angle)
        middle = (resolution - 1) / 2
        return np.array(
            [[cos, -sin, self.x - (cos - sin) * middle], [sin, cos, self.y - (sin + cos) * middle]], np.float64
        )

    def to_frame(self, points: Points) -> Points:
        """Points [N, 2] of the unit crop, (0, 0) its left upper corner, as pixels of the frame."""
        matrix = self.matrix(1)
        shifted = np.asarray(points, np.float64) - 0.5
        moved: Points = shifted @ matrix[:, :2].T + (self.x, self.y)
        return moved

    def to_unit(self, points: Points) -> Points:
        """The inverse of `to_frame`."""
        matrix = self.matrix(1)
        moved: Points = (np.asarray(points, np.float64) - (self.x, self.y)) @ np.linalg.inv(matrix[:, :2]).T + 0.5
        return moved

    def framed(self, scale: float, down: float) -> Similarity:
        """The crop of a model whose training crops are `scale` as wide as FFHQ's and lie `down` sides lower."""
        reach = down * self.side
        x, y = self.x - reach * math.sin(self.angle), self.y + reach * math.cos(self.angle)
        return Similarity(x, y, self.side * scale, self.angle)

    def moved(self, motion: NDArray[np.float64]) -> Similarity:
        """The crop carried along by a similarity [2, 3] of the frame."""
        a, b = float(motion[0, 0]), float(motion[1, 0])
        x, y = motion @ (self.x, self.y, 1.0)
        return Similarity(float(x), float(y), self.side * math.hypot(a, b), wrapped(self.angle + math.atan2(b, a)))


def wrapped(angle: float) -> float:
    """The angle within -pi..pi."""
    return math.remainder(angle, 2 * math.pi)


def ffhq(eyes: Points, mouth: Points) -> Similarity:
    """The FFHQ crop of eyes [2, 2] (left in the picture first) and the mouth's middle [2].

    Raises ValueError where they coincide.
    """
    middle = eyes.mean(axis=0)
    across, down = eyes[1] - eyes[0], mouth - middle
    x = across + np.array([down[1], -down[0]])
    length = float(np.hypot(*x))
    if not length > 0:
        raise ValueError(f"eyes and mouth are one point: {eyes.tolist()}, {mouth.tolist()}")
    half = max(2.0 * float(np.hypot(*across)), 1.8 * float(np.hypot(*down)))
    center = middle + 0.1 * down
    return Similarity(float(center[0]), float(center[1]), 2 * half, math.atan2(x[1], x[0]))


def from_eyes(eyes: Points) -> Similarity:
    """The FFHQ crop of the eyes [2, 2] alone: the mouth lies where FFHQ's mean face has it."""
    across = eyes[1] - eyes[0]
    down = np.array([-across[1], across[0]]) * (MOUTH_BELOW / EYES_APART)
    return ffhq(eyes, eyes.mean(axis=0) + down)


def from_box(box: tuple[float, float, float, float], side: float, down: float) -> Similarity:
    """An upright crop around a face's box (x, y, width, height): `side` in box widths, its center `down` box heights
    below the box's top. What they are depends on where a detector draws its boxes."""
    x, y, width, height = box
    return Similarity(x + (width - 1) / 2, y + down * height - 0.5, side * width)


def centered(width: int, height: int) -> Similarity:
    """The largest upright square in the middle of a frame: where nothing is known of a face."""
    return Similarity((width - 1) / 2, (height - 1) / 2, float(min(width, height)))


def crop(frame: Pixels, where: Similarity, resolution: int) -> Pixels:
    """uint8 [R, R, 3]: the crop of a frame [H, W, 3], antialiased; beyond the frame's edges it is mirrored."""
    over = max(1, math.ceil(where.side / resolution - 0.01))  # samples a side of every pixel
    fine = resolution * over
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    drawn = cv2.warpAffine(frame, where.matrix(fine), (fine, fine), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    if over > 1:
        drawn = cv2.resize(drawn, (resolution, resolution), interpolation=cv2.INTER_AREA)
    return np.asarray(drawn, np.uint8)
