"""Faces in a frame, by whatever is at hand; each detector is a file."""

from __future__ import annotations

from pathlib import Path

from legato_align.detectors.base import Detector, Face
from legato_align.detectors.box import DrawnBox
from legato_align.detectors.haar import HaarCascade
from legato_align.detectors.lbp import LbpCascade
from legato_align.detectors.mediapipe import FaceLandmarker
from legato_align.detectors.yunet import YuNet
from legato_align.errors import AlignmentError

__all__ = ["NAMES", "Detector", "DrawnBox", "Face", "open_detector"]

NAMES = ("auto", "yunet", "haar", "lbp", "mediapipe")
_MODELS = {".onnx": "yunet", ".task": "mediapipe"}


def open_detector(name: str = "auto", model: Path | None = None) -> Detector:
    """The detector of that name. "auto": YuNet or MediaPipe where `model` is a file of theirs, otherwise the first
    that is installed of those that need no model file: the Haar cascade (OpenCV 4), the LBP cascade (scikit-image).

    Raises AlignmentError where it cannot be had; the message says what to install or which file to name.
    """
    if name not in NAMES:
        raise AlignmentError(f"a face detector is one of {', '.join(NAMES)}; got {name!r}")
    if name == "auto" and model is not None:
        if model.suffix.lower() not in _MODELS:
            raise AlignmentError(f"a face model is a YuNet .onnx or a MediaPipe .task file; got {model}")
        name = _MODELS[model.suffix.lower()]
    if name == "yunet":
        return YuNet(model)
    if name == "mediapipe":
        return FaceLandmarker(model)
    if model is not None:
        raise AlignmentError(f"the detector {name!r} takes no model file; leave {model} out, or name yunet")
    if name == "haar" or (name == "auto" and HaarCascade.is_here()):
        return HaarCascade()
    if name == "lbp" or (name == "auto" and LbpCascade.is_here()):
        return LbpCascade()
    raise AlignmentError(
        "no face detector is here: this OpenCV brings no Haar cascades (version 5 has none) and scikit-image is not "
        "installed. Name a YuNet file (--face-model face_detection_yunet.onnx), or pip install "
        "'legato-client[face-cascade]', or draw the face's box in the first frame (--face-box X,Y,WIDTH,HEIGHT)"
    )
