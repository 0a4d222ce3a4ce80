"""OpenCV's Haar cascades for face and eyes: they ship in the wheels of OpenCV 4; those of OpenCV 5 have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from legato_align.detectors.base import Face, points, window
from legato_align.errors import AlignmentError
from legato_align.geometry import Pixels, Points, Similarity

_FACE, _EYE = "haarcascade_frontalface_alt2.xml", "haarcascade_eye.xml"
_SURE = 60.0  # a level weight above which the last stage is hardly ever wrong
_REACH = 0.75


class HaarCascade:
    """Boxes, and eyes where both are found. Frontal faces of about 40 pixels and more."""

    name = "haar"
    note = "Haar cascade (no model file): frontal faces only, its boxes jitter; a YuNet file finds more"

    def __init__(self) -> None:
        if not self.is_here():
            raise AlignmentError(
                f"OpenCV {cv2.__version__} brings no Haar cascades: they ship with version 4 (pip install "
                "'opencv-python-headless<5'); otherwise name a YuNet file with --face-model"
            )
        self._face, self._eye = _cascade(_FACE), _cascade(_EYE)

    @staticmethod
    def is_here() -> bool:
        """Whether this OpenCV has the classifier and its files."""
        return hasattr(cv2, "CascadeClassifier") and Path(_folder(), _FACE).exists()

    def find(self, frame: Pixels, near: Similarity | None) -> list[Face]:
        """Faces, the surest first."""
        part, left, top = window(frame, near, _REACH)
        gray = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
        limits = (max(24, min(gray.shape) // 8), min(gray.shape))
        if near is not None:
            limits = (max(24, int(near.side / 1.65 * 0.75)), int(near.side / 1.65 * 1.35))
        small, large = ((side, side) for side in limits)
        boxes, _, weights = self._face.detectMultiScale3(
            gray, scaleFactor=1.1, minNeighbors=3, minSize=small, maxSize=large, outputRejectLevels=True
        )
        faces = []
        for box, weight in zip(np.reshape(boxes, (-1, 4)), np.ravel(weights), strict=True):
            x, y, width, height = (float(value) for value in box)
            eyes = self._eyes(gray[int(y) : int(y + 0.6 * height), int(x) : int(x + width)], int(x), int(y))
            placed = None if eyes is None else eyes + np.array([left, top])
            score = float(np.clip(weight / _SURE, 0.05, 1.0))
            faces.append(Face((x + left, y + top, width, height), score, placed, box_side=1.65, box_down=0.44))
        return sorted(faces, key=lambda face: face.score * face.box[2], reverse=True)

    def _eyes(self, gray: Any, left: int, top: int) -> Points | None:
        """The middles of two eyes [2, 2] of a face's upper part; None unless there are two, side by side."""
        width = gray.shape[1]
        least = (max(8, width // 8),) * 2
        found = np.reshape(self._eye.detectMultiScale(gray, 1.05, 4, minSize=least), (-1, 4))
        if len(found) != 2:
            return None
        middles = points(found[:, :2] + (found[:, 2:] - 1) / 2)
        middles = middles[np.argsort(middles[:, 0])]
        across = middles[1] - middles[0]
        if not 0.25 * width < across[0] < 0.65 * width or abs(across[1]) > 0.5 * across[0]:
            return None
        return np.asarray(middles + np.array([left, top]), np.float64)


def _folder() -> str:
    return str(getattr(getattr(cv2, "data", None), "haarcascades", ""))


def _cascade(name: str) -> Any:
    made: Any = getattr(cv2, "CascadeClassifier")  # noqa: B009 - version 5 has none
    return made(str(Path(_folder(), name)))
