"""MediaPipe's Face Landmarker (extra `mediapipe`): 478 landmarks. Its model, a .task file, is named by the user."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from legato_align.detectors.base import Face, points
from legato_align.errors import AlignmentError
from legato_align.geometry import Pixels, Similarity

# Of the 478: corners of both eyes and of the mouth, in the picture's order for a face that looks at the camera.
_LEFT_EYE, _RIGHT_EYE, _MOUTH = (33, 133), (362, 263), (61, 291)


class FaceLandmarker:
    """Faces with landmarks, frame by frame: MediaPipe's own tracking stays off, smoothing is done in one place."""

    name = "mediapipe"
    note = ""

    def __init__(self, model: Path | None) -> None:
        if model is None or not model.is_file():
            raise AlignmentError(
                f"MediaPipe's detector needs its model file, face_landmarker.task, with --face-model; got {model}"
            )
        try:
            self._mediapipe: Any = importlib.import_module("mediapipe")
            vision = importlib.import_module("mediapipe.tasks.python.vision")
            base = importlib.import_module("mediapipe.tasks.python")
        except ModuleNotFoundError:
            raise AlignmentError("MediaPipe is not installed: pip install 'legato-client[mediapipe]'") from None
        options = vision.FaceLandmarkerOptions(base_options=base.BaseOptions(model_asset_path=str(model)), num_faces=4)
        try:
            self._landmarker: Any = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise AlignmentError(f"{model} is no Face Landmarker model ({error})") from None

    def find(self, frame: Pixels, near: Similarity | None) -> list[Face]:
        """Faces of the whole frame, the largest first."""
        height, width = frame.shape[:2]
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
        faces = []
        for marks in self._landmarker.detect(image).face_landmarks:
            at = points([(mark.x * width - 0.5, mark.y * height - 0.5) for mark in marks])
            eyes = points([at[list(_LEFT_EYE)].mean(axis=0), at[list(_RIGHT_EYE)].mean(axis=0)])
            low, high = at.min(axis=0), at.max(axis=0)
            box = (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
            faces.append(Face(box, 0.9, eyes, at[list(_MOUTH)].mean(axis=0)))
        return sorted(faces, key=lambda face: face.box[2], reverse=True)
