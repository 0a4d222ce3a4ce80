"""Between two frames: how a face moved, by optical flow, and whether the scene was cut."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from legato_align.geometry import Pixels, Similarity

Gray = NDArray[np.uint8]

_POINTS = 120
_LEAST_POINTS = 8
_BACK_PIXELS = 0.7  # there and back, at working size
_WORKING = 160  # pixels that a crop's side has where flow is sought: motion is then a few pixels
_THUMB = (32, 24)
_CUT_DIFFERENCE = 0.22  # mean absolute difference of thumbnails, of the full range ...
_CUT_CORRELATION = 0.45  # ... or how little their structure agrees


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """A similarity [2, 3] from the earlier frame's pixels to the later one's, and the share of points that agree."""

    matrix: NDArray[np.float64]
    agreement: float


def gray_of(frame: Pixels) -> Gray:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def face_motion(before: Gray, after: Gray, where: Similarity) -> Motion | None:
    """How the face in the crop `where` of `before` moved until `after`: pyramidal Lucas-Kanade on corners inside the
    face's oval, forward and back, and a robust similarity of those that return. None where too few do."""
    shrink = min(1.0, _WORKING / where.side)
    first, second = (_shrunk(picture, shrink) for picture in (before, after))
    mask = np.zeros(first.shape, np.uint8)
    center = (round((where.x + 0.5) * shrink), round((where.y + 0.5) * shrink))
    axes = (max(1, round(0.26 * where.side * shrink)), max(1, round(0.34 * where.side * shrink)))
    cv2.ellipse(mask, center, axes, float(np.degrees(where.angle)), 0, 360, 255, -1)
    corners = cv2.goodFeaturesToTrack(first, _POINTS, 0.005, max(2.0, axes[0] / 12), mask=mask)
    if corners is None or len(corners) < _LEAST_POINTS:
        return None
    settings = {"winSize": (15, 15), "maxLevel": 3}
    moved, there, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None, **settings)  # type: ignore[call-overload]
    back, again, _ = cv2.calcOpticalFlowPyrLK(second, first, moved, None, **settings)  # type: ignore[call-overload]
    missed = np.abs(back - corners).reshape(-1, 2).max(axis=1)
    good = (there.ravel() == 1) & (again.ravel() == 1) & (missed < _BACK_PIXELS)
    if good.sum() < _LEAST_POINTS:
        return None
    pairs = corners.reshape(-1, 2)[good], moved.reshape(-1, 2)[good]
    found, inliers = cv2.estimateAffinePartial2D(*pairs, method=cv2.RANSAC, ransacReprojThreshold=1.0)
    if found is None or not 0.7 < float(np.hypot(found[0, 0], found[1, 0])) < 1.4:
        return None
    matrix = np.asarray(found, np.float64)
    shift = (1 - shrink) / 2  # of pixel centers, by the smaller picture
    matrix[:, 2] = (matrix[:, 2] + matrix[:, :2] @ np.full(2, -shift) + shift) / shrink
    return Motion(matrix, float(inliers.sum()) / len(corners))


def is_cut(before: Gray, after: Gray) -> bool:
    """Whether two frames show different scenes. Exposure that changes as a whole is no cut."""
    if before.shape != after.shape:
        return True
    first, second = (_thumb(picture) for picture in (before, after))
    difference = float(np.abs(first - second).mean()) / 255
    a, b = first - first.mean(), second - second.mean()
    agreement = float((a * b).sum() / (np.sqrt((a * a).sum() * (b * b).sum()) + 1e-6))
    return difference > 0.03 and (agreement < _CUT_CORRELATION or (difference > _CUT_DIFFERENCE and agreement < 0.8))


def _thumb(picture: Gray) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(picture, _THUMB, interpolation=cv2.INTER_AREA), np.float32)


def _shrunk(picture: Gray, shrink: float) -> Gray:
    if shrink == 1.0:
        return picture
    size = max(1, round(picture.shape[1] * shrink)), max(1, round(picture.shape[0] * shrink))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
