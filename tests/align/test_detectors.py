"""Detectors: those that are here find a face, those that are not say what to do; unaligned pictures are told."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from legato_align.detectors import DrawnBox, open_detector
from legato_align.detectors.base import Face, window
from legato_align.detectors.haar import HaarCascade
from legato_align.detectors.lbp import LbpCascade
from legato_align.errors import AlignmentError
from legato_align.geometry import Pixels, Similarity, crop
from legato_align.judge import complaint
from tests.align.placed import FOOTAGE, HEIGHT, WIDTH, face_at, footage, frame_of, heads, room

HERE = [name for name, cls in (("haar", HaarCascade), ("lbp", LbpCascade)) if cls.is_here()]


@pytest.mark.skipif(not HERE, reason="neither OpenCV 4 (Haar) nor scikit-image (LBP) is installed")
@pytest.mark.parametrize("name", HERE)
def test_a_cascade_finds_rendered_heads(name: str) -> None:
    """In at least eight of ten frames, near the truth; near a crop it looks only there."""
    detector, found, off = open_detector(name), 0, []
    for _, frame, truth in list(footage(60))[::6]:
        large = np.asarray(cv2.resize(frame, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)
        faces = detector.find(large, None)
        found += bool(faces)
        if faces:
            place = faces[0].crop
            off.append(np.hypot(place.x / 2 - truth.x, place.y / 2 - truth.y) / truth.side)
            assert 0.6 < place.side / 2 / truth.side < 1.6
            assert not detector.find(large, Similarity(10.0, 10.0, 2 * truth.side)) or name == "lbp"
    assert found >= 8
    assert np.median(off) < 0.12


@pytest.mark.skipif(not (HERE and FOOTAGE.exists()), reason="no cascade, or no footage")
@pytest.mark.parametrize("name", HERE)
def test_a_cascade_finds_a_person(name: str) -> None:
    detector = open_detector(name)
    with av.open(str(FOOTAGE)) as container:
        frame = np.asarray(next(container.decode(video=0)).to_ndarray(format="rgb24"), np.uint8)
    place = detector.find(frame, None)[0].crop
    assert np.hypot(place.x - 211, place.y - 157) < 12  # by eye
    assert 185 < place.side < 225
    assert "400x300, not square" in complaint(frame, [])
    assert complaint(crop(frame, place, 256), [Face((0, 0, 1, 1), 1.0, *_marks(256))]) == ""


def _marks(side: int) -> tuple[np.ndarray, np.ndarray]:
    face = face_at(Similarity((side - 1) / 2, (side - 1) / 2, float(side)))
    assert face.eyes is not None
    assert face.mouth is not None
    return face.eyes, face.mouth


def test_without_any_the_message_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HaarCascade, "is_here", staticmethod(lambda: False))
    monkeypatch.setattr(LbpCascade, "is_here", staticmethod(lambda: False))
    with pytest.raises(AlignmentError, match=r"--face-model .*legato-client\[face-cascade\].*--face-box"):
        open_detector()
    with pytest.raises(AlignmentError, match="they ship with version 4"):
        open_detector("haar")
    with pytest.raises(AlignmentError, match="ships with scikit-image"):
        open_detector("lbp")


def test_model_files_are_asked_for_and_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged, task, other = tmp_path / "yunet.onnx", tmp_path / "face.task", tmp_path / "face.bin"
    for file in (damaged, task, other):
        file.write_bytes(b"no network")
    with pytest.raises(AlignmentError, match="YuNet needs its model file, which no package brings"):
        open_detector("yunet")
    with pytest.raises(AlignmentError, match=r"missing\.onnx does not exist"):
        open_detector("auto", tmp_path / "missing.onnx")
    with pytest.raises(AlignmentError, match="is no YuNet model that OpenCV"):
        open_detector("auto", damaged)
    with pytest.raises(AlignmentError, match=r"a YuNet \.onnx or a MediaPipe \.task"):
        open_detector("auto", other)
    with pytest.raises(AlignmentError, match="takes no model file"):
        open_detector("haar", damaged)
    with pytest.raises(AlignmentError, match="is one of auto, yunet, haar, lbp, mediapipe"):
        open_detector("eigenfaces")
    with pytest.raises(AlignmentError, match=r"needs its model file, face_landmarker\.task"):
        open_detector("mediapipe")
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(AlignmentError, match=r"pip install 'legato-client\[mediapipe\]'"):
        open_detector("auto", task)


def test_a_drawn_box_is_found_once() -> None:
    detector = DrawnBox((100.0, 60.0, 80.0, 80.0))
    (face,) = detector.find(room(), None)
    assert (face.crop.x, face.crop.angle) == (139.5, 0.0)
    assert detector.find(room(), None) == []
    with pytest.raises(ValueError, match="16 wide and high"):
        DrawnBox((0.0, 0.0, 8.0, 80.0))


def test_a_window_says_where_it_is() -> None:
    frame = room()
    part, left, top = window(frame, Similarity(100.0, 90.0, 80.0), 0.5)
    np.testing.assert_array_equal(part, frame[top : top + part.shape[0], left : left + part.shape[1]])
    assert (left, top) == (60, 50)
    assert window(frame, Similarity(-900.0, 0.0, 40.0), 0.5)[0].shape == frame.shape  # nothing left: look everywhere


@pytest.mark.parametrize(
    ("where", "word"),
    [
        (Similarity(127.5, 127.5, 250.0), ""),
        (Similarity(127.5, 127.5, 120.0), "the face is too small"),
        (Similarity(127.5, 127.5, 500.0), "the face is too large"),
        (Similarity(190.0, 127.5, 250.0), "the face lies"),
    ],
)
def test_a_face_that_is_not_in_its_place_is_told(where: Similarity, word: str) -> None:
    picture: Pixels = np.zeros((256, 256, 3), np.uint8)
    told = complaint(picture, [face_at(where)])
    assert word in told
    assert bool(told) == bool(word)
    assert complaint(picture, []) == ""
    assert "not square" in complaint(frame_of(heads(1)[0], where), [])
