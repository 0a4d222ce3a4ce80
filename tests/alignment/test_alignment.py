"""Sessions that ask the server for faces: the crops of their frames, where they lie, a clear word where none is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from legato.alignment import FaceFinder, SessionAligner
from legato.config import load
from legato.errors import ConfigError, InvalidImage, InvalidInput
from legato_align.aligner import Aligner
from legato_align.detectors.haar import HaarCascade
from legato_align.detectors.lbp import LbpCascade
from legato_align.geometry import crop
from legato_align.smoothing import Steadiness
from tests.align.placed import Informed, footage

RAW = Steadiness(smooth=False)


def test_a_frame_becomes_its_faces_crop() -> None:
    clip = list(footage(6))
    detector = Informed([where for _, _, where in clip], missing=range(3, 6))
    finder = SessionAligner(Aligner(detector, RAW, hold_seconds=0.05))
    for index, (time, frame, truth) in enumerate(clip[:3]):
        detector.at(index)
        cropped, found = finder.crop(frame, 64, 1000.0 + time, 5.0)
        assert (found.aligned, found.held) == (True, False)
        assert math.hypot(found.crop.x - truth.x, found.crop.y - truth.y) < 2
        np.testing.assert_array_equal(cropped, crop(frame, found.crop, 64))
    detector.at(3)
    assert finder.crop(clip[3][1], 64, 1000.0 + clip[3][0], 5.0)[1].held
    detector.at(4)
    with pytest.raises(InvalidImage, match="no face was found in this frame") as refused:
        finder.crop(clip[4][1], 64, 1001.0, 5.0)
    assert refused.value.reason == "NO_FACE"


def test_without_capture_times_those_of_arrival_count() -> None:
    """The filter needs time to pass: between frames that all say 0, the server's clock does."""
    clip = list(footage(8))
    paths = []
    for known in (True, False):
        detector = Informed([where for _, _, where in clip])
        finder = SessionAligner(Aligner(detector))
        places = []
        for index, (time, frame, _) in enumerate(clip):
            detector.at(index)
            places.append(finder.crop(frame, 32, 50.0 + time if known else 0.0, 7.0 + time)[1].crop.x)
        paths.append(places)
    np.testing.assert_allclose(paths[0], paths[1])


@pytest.mark.parametrize(("name", "cls"), [("haar", HaarCascade), ("lbp", LbpCascade)])
def test_a_detector_that_is_not_here_keeps_the_server_from_starting(
    name: str, cls: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cls, "is_here", staticmethod(lambda: False))
    with pytest.raises(ConfigError, match=r"server\.face_detector: .*--face-model"):
        FaceFinder(name)
    with pytest.raises(ConfigError, match="does not exist"):
        FaceFinder("auto", "/nowhere/yunet.onnx")
    assert load(environ={}, flags={"server.face_detector": "lbp"}).server.face_detector == "lbp"


def test_sessions_that_cannot_have_it_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (HaarCascade, LbpCascade):
        monkeypatch.setattr(cls, "is_here", staticmethod(lambda: False))
    finder = FaceFinder()  # a server without a detector starts
    with pytest.raises(InvalidInput, match=r"this server finds no faces: .*Or align in the client") as refused:
        finder.aligner(lock_scale=False, min_cutoff=0.0, beta=0.0)
    assert refused.value.reason == "ALIGNMENT_NOT_AVAILABLE"
    with pytest.raises(InvalidInput, match="min_cutoff is a frequency"):
        finder.aligner(lock_scale=False, min_cutoff=-1.0, beta=0.0)
