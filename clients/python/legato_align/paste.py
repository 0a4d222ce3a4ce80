"""A crop's new picture back into its frame: inverse transform, soft edge, colors matched steadily.

The edge is an oval inside the crop that fades outwards. Colors are matched in two parts, both smoothed in time, so that
nothing flickers: a gain and an offset a channel over the oval (Reinhard et al., "Color Transfer between Images", 2001,
in RGB), and, near the edge alone, the coarse difference that is left, so that light and background meet there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from legato_align.geometry import Pixels, Similarity
from legato_align.geometry import crop as crop_of
from legato_align.smoothing import gain

Plane = NDArray[np.float32]

_COLOR_CUTOFF = 0.5  # Hz
_GAINS = 0.6, 1.6
_COARSE = 12  # cells a side of the difference that meets at the edge
_MASK_SIDE = 256


@dataclass(frozen=True, slots=True)
class Seam:
    """Where and how a picture meets its frame. Lengths in crop sides.

    center_y, width, height: the oval's middle below the crop's top, its half axes. feather: from 1 to 0 across its
    edge. color: match colors.
    """

    center_y: float = 0.52
    width: float = 0.36
    height: float = 0.42
    feather: float = 0.2
    color: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.feather < 2 * min(self.width, self.height)):
            raise ValueError(f"a feather is wider than 0 and narrower than the oval; got {self.feather}")
        reach = self.feather / 2
        if max(self.width, self.height) + reach > 0.5 + 0.06 or not 0.3 < self.center_y < 0.7:
            raise ValueError(f"the oval and its feather lie within the crop; got {self}")


class Paster:
    """Puts one stream's pictures back, frame after frame."""

    def __init__(self, seam: Seam | None = None) -> None:
        self._seam = seam or Seam()
        self._mask = _oval(self._seam)
        self._near_edge = _coarse(4 * self._mask * (1 - self._mask))
        self.restart()

    def restart(self) -> None:
        """Another subject or scene: its colors are its own."""
        self._scale: Plane | None = None
        self._offset = np.zeros(3, np.float32)
        self._left: Plane = np.zeros((_COARSE, _COARSE, 3), np.float32)
        self._time = 0.0

    def measure(self, frame: Pixels, like: Pixels, where: Similarity, time: float) -> None:
        """Measures the colors of the frame, uint8 [H, W, 3], in the crop `where`, against the model's picture of it,
        [R, R, 3], without an edit: an edit of colors is then not undone. time: seconds."""
        if self._seam.color:
            self._measure(crop_of(frame, where, like.shape[0]), like, time)

    def place(self, frame: Pixels, picture: Pixels, where: Similarity) -> Pixels:
        """A frame [H, W, 3] with the picture [R, R, 3] in the crop `where`, in the colors that were measured last."""
        shown = picture.astype(np.float32)
        if self._scale is not None:
            shown = self._matched(shown, self._scale)
        return _into(frame, shown, self._mask, where)

    def _measure(self, wanted: Pixels, given: Pixels, time: float) -> None:
        side = wanted.shape[0]
        weight = np.asarray(cv2.resize(self._mask, (side, side), interpolation=cv2.INTER_AREA), np.float32)[..., None]
        target, source = wanted.astype(np.float32), given.astype(np.float32)
        (mean_t, spread_t), (mean_s, spread_s) = _moments(target, weight), _moments(source, weight)
        scale = np.clip((spread_t + 4) / (spread_s + 4), *_GAINS)
        offset = mean_t - scale * mean_s
        left = _coarse(target - (source * scale + offset))
        first = self._scale is None
        part = 1.0 if first else float(np.clip(gain(_COLOR_CUTOFF, time - self._time), 0.0, 1.0))
        before = scale if self._scale is None else self._scale
        self._scale = before + part * (scale - before)
        self._offset = self._offset + part * (offset - self._offset)
        self._left = self._left + part * (left - self._left)
        self._time = time

    def _matched(self, picture: Plane, scale: Plane) -> Plane:
        side = picture.shape[0]
        edge = cv2.resize(self._left * self._near_edge[..., None], (side, side), interpolation=cv2.INTER_CUBIC)
        return np.asarray(picture * scale + self._offset + edge, np.float32)


def _into(frame: Pixels, picture: Plane, mask: Plane, where: Similarity) -> Pixels:
    """Only the part of the frame that the crop covers is touched."""
    height, width = frame.shape[:2]
    corners = where.to_frame(np.array([(0, 0), (1, 0), (0, 1), (1, 1)], np.float64))
    left, top = (max(0, math.floor(value)) for value in corners.min(axis=0))
    right, bottom = (math.ceil(value) + 1 for value in corners.max(axis=0))
    right, bottom = min(width, right), min(height, bottom)
    if right <= left or bottom <= top:
        return frame.copy()
    moved = Similarity(where.x - left, where.y - top, where.side, where.angle)
    size = right - left, bottom - top
    drawn = _warped(picture, moved, size, cv2.BORDER_REPLICATE)
    soft = _warped(mask, moved, size, cv2.BORDER_CONSTANT)[..., None]
    out = frame.copy()
    under = frame[top:bottom, left:right].astype(np.float32)
    out[top:bottom, left:right] = np.clip(under + soft * (drawn - under) + 0.5, 0, 255).astype(np.uint8)
    return out


def _warped(plane: Plane, where: Similarity, size: tuple[int, int], border: int) -> Plane:
    """[h, w(, C)]: a crop's plane on the frame; smaller than it was, it is blurred first."""
    shrink = plane.shape[0] / where.side
    if shrink > 1.5:
        plane = np.asarray(cv2.GaussianBlur(plane, (0, 0), 0.4 * shrink), np.float32)
    flags = cv2.INTER_CUBIC if shrink < 1 else cv2.INTER_LINEAR
    return np.asarray(
        cv2.warpAffine(plane, where.matrix(plane.shape[0]), size, flags=flags, borderMode=border), np.float32
    )


def _oval(seam: Seam) -> Plane:
    """[M, M] in 0..1: one inside, falling with a smooth step over the feather, 0 at the crop's own edge."""
    at = (np.arange(_MASK_SIDE) + 0.5) / _MASK_SIDE
    x, y = np.meshgrid(at, at)
    radius = np.hypot((x - 0.5) / seam.width, (y - seam.center_y) / seam.height)
    outside = (radius - 1) * min(seam.width, seam.height)
    border = np.minimum.reduce([x, 1 - x, y, 1 - y]) / (0.25 * seam.feather)
    return np.asarray(_step(0.5 - outside / seam.feather) * _step(border), np.float32)


def _step(x: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip(x, 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t))


def _coarse(plane: Plane) -> Plane:
    return np.asarray(cv2.resize(plane, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA), np.float32)


def _moments(picture: Plane, weight: Plane) -> tuple[Plane, Plane]:
    """Mean and deviation [3] of each channel."""
    total = float(weight.sum())
    mean = (picture * weight).sum(axis=(0, 1)) / total
    spread = np.sqrt(((picture - mean) ** 2 * weight).sum(axis=(0, 1)) / total)
    return mean.astype(np.float32), spread.astype(np.float32)
