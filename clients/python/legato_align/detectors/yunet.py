"""YuNet by OpenCV's FaceDetectorYN: five landmarks. Its model, an ONNX file, is named by the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from legato_align.detectors.base import Face, points
from legato_align.errors import AlignmentError
from legato_align.geometry import Pixels, Similarity

_LEAST_SCORE = 0.5
_OVERLAP = 0.3
_WORKING = 640  # pixels of the longer side: it finds faces of 10 to 300 pixels


class YuNet:
    """Faces with eyes, nose and corners of the mouth (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector")."""

    name = "yunet"
    note = ""

    def __init__(self, model: Path | None) -> None:
        if model is None:
            raise AlignmentError(
                "YuNet needs its model file, which no package brings: name it with --face-model "
                "face_detection_yunet.onnx (OpenCV Zoo; OpenCV 5 takes the 2026may file, OpenCV 4 the 2023mar one)"
            )
        if not model.is_file():
            raise AlignmentError(f"{model} does not exist; it was named as YuNet's model file")
        try:
            self._net: Any = cv2.FaceDetectorYN.create(str(model), "", (320, 320), _LEAST_SCORE, _OVERLAP, 50)
            self._net.detect(np.zeros((320, 320, 3), np.uint8))  # some files load and then do not run
        except cv2.error as error:
            told = str(error).strip().splitlines()[-1][:200]
            raise AlignmentError(
                f"{model} is no YuNet model that OpenCV {cv2.__version__} runs ({told}); OpenCV 5 takes the 2026may "
                "file of OpenCV Zoo, OpenCV 4 the 2023mar one"
            ) from None

    def find(self, frame: Pixels, near: Similarity | None) -> list[Face]:
        """Faces of the whole frame, the surest and largest first."""
        height, width = frame.shape[:2]
        shrink = min(1.0, _WORKING / max(height, width))
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if shrink < 1:
            bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
        self._net.setInputSize(size)
        _, rows = self._net.detect(bgr)
        faces = [_face(row / shrink, float(row[14])) for row in ([] if rows is None else rows)]
        return sorted(faces, key=lambda face: face.score * face.box[2], reverse=True)


def _face(row: Any, score: float) -> Face:
    """Of x, y, w, h, then right eye, left eye, nose, right and left corner of the mouth: the person's right, which
    the picture has on the left."""
    marks = points(row[4:14])
    eyes, corners = marks[:2], marks[3:5]
    if eyes[0, 0] > eyes[1, 0] and corners[0, 0] > corners[1, 0]:  # a mirrored file
        eyes = eyes[::-1]
    x, y, width, height = (float(value) for value in row[:4])
    return Face((x, y, width, height), min(1.0, score), eyes, corners.mean(axis=0))
