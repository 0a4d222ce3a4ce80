"""The LBP cascade for frontal faces that ships in scikit-image's wheel: no download, whatever the OpenCV."""

from __future__ import annotations

import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from legato_align.detectors.base import Face, window
from legato_align.errors import AlignmentError
from legato_align.geometry import Pixels, Similarity

_FILE = Path("data") / "lbpcascade_frontalface_opencv.xml"
_REACH = 0.75
_WORKING = 360  # pixels of the longer side that is searched when nothing is known of the face
_BOX_SIDE, _BOX_DOWN = 1.58, 0.43


class LbpCascade:
    """Boxes of frontal faces, without landmarks: crops are upright."""

    name = "lbp"
    note = "LBP cascade (no model file): frontal, upright faces only, its boxes jitter; a YuNet file finds more"

    def __init__(self) -> None:
        if not self.is_here():
            raise AlignmentError(
                "the LBP cascade ships with scikit-image: pip install 'legato-client[face-cascade]', or name a YuNet "
                "file with --face-model"
            )
        package = importlib.import_module("skimage")
        self._cascade: Any = importlib.import_module("skimage.feature").Cascade(
            str(Path(str(package.__file__)).parent / _FILE)
        )

    @staticmethod
    def is_here() -> bool:
        """Whether scikit-image is installed, its cascade's file included."""
        found = importlib.util.find_spec("skimage")
        return bool(found and found.origin and (Path(found.origin).parent / _FILE).exists())

    def find(self, frame: Pixels, near: Similarity | None) -> list[Face]:
        """Faces, the largest first."""
        part, left, top = window(frame, near, _REACH)
        shrink = min(1.0, _WORKING / max(part.shape[:2]))
        if shrink < 1:
            size = max(1, round(part.shape[1] * shrink)), max(1, round(part.shape[0] * shrink))
            part = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
        least, most = max(24, min(part.shape[:2]) // 6), min(part.shape[:2])
        if near is not None:
            expected = near.side * shrink / _BOX_SIDE
            least, most = max(24, int(expected * 0.75)), min(most, math.ceil(expected * 1.35))
        if most < least:
            return []
        found = self._cascade.detect_multi_scale(
            np.ascontiguousarray(part), 1.1, 1, (least, least), (most, most), min_neighbor_number=3
        )
        boxes = [(one["c"], one["r"], one["width"], one["height"]) for one in found]
        boxes.sort(key=lambda box: box[2], reverse=True)
        placed = [((x / shrink) + left, (y / shrink) + top, w / shrink, h / shrink) for x, y, w, h in boxes]
        return [Face(box, 0.8, box_side=_BOX_SIDE, box_down=_BOX_DOWN) for box in placed]
