"""One face through a clip: followed, held where detection fails, let go, taken up again after a cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from legato_align.aligner import Aligner, Alignment
from legato_align.detectors import DrawnBox
from legato_align.detectors.base import Face
from legato_align.geometry import Pixels, Similarity
from legato_align.motion import face_motion, gray_of, is_cut
from legato_align.smoothing import Steadiness
from tests.align.placed import Informed, face_at, footage, frame_of, heads, jitter, path, room

FRAMES = 75


@pytest.fixture(scope="module")
def clip() -> list[tuple[float, Pixels, Similarity]]:
    return list(footage(FRAMES))


Clip = list[tuple[float, Pixels, Similarity]]


def aligned(clip: Clip, detector: Informed, ahead: float = 0.0, **options: object) -> list[Alignment]:
    aligner = Aligner(detector, **options)  # type: ignore[arg-type]

    def seen(index: int) -> tuple[Pixels, float]:
        detector.at(index)
        return clip[index][1], clip[index][0]

    found = list(aligner.ahead_of(range(len(clip)), seen, ahead))
    assert [index for index, _ in found] == list(range(len(clip)))
    return [alignment for _, alignment in found]


def off(found: list[Alignment], clip: Clip) -> list[float]:
    """Distance of the crops' centers from the truth, in pixels."""
    return [math.hypot(a.crop.x - truth.x, a.crop.y - truth.y) for a, (_, _, truth) in zip(found, clip, strict=True)]


def test_a_noisy_detector_becomes_a_steady_crop_that_keeps_up(clip: Clip) -> None:
    """The bar: the second difference of the crop's center at least five times lower, and no visible lag."""
    truth = [where for _, _, where in clip]
    raw = aligned(clip, Informed(truth, noise=1.5), steadiness=Steadiness(smooth=False))
    steady = aligned(clip, Informed(truth, noise=1.5), ahead=0.3)
    shaken, calm = (jitter(np.array([(a.crop.x, a.crop.y) for a in found])) for found in (raw, steady))
    assert shaken > 5 * calm
    assert np.mean(off(steady, clip)) < 2
    assert all(alignment.aligned and not alignment.held for alignment in steady)


def test_misses_are_held_by_flow_and_said(clip: Clip) -> None:
    detector = Informed([where for _, _, where in clip], missing=range(20, 45))
    found = aligned(clip, detector, ahead=0.3)
    assert [a.held for a in found] == [20 <= index < 45 for index in range(FRAMES)]
    assert all(a.aligned for a in found)
    assert max(off(found, clip)) < 5  # the head moved by some 20 pixels meanwhile
    confidence = [a.confidence for a in found]
    assert confidence[44] < confidence[30] < confidence[20] < confidence[10]
    assert confidence[50] > confidence[44]


def test_a_face_that_stays_away_is_let_go(clip: Clip) -> None:
    detector = Informed([where for _, _, where in clip], missing=range(10, 60))
    found = aligned(clip, detector, hold_seconds=1.0)
    assert found[30].held
    lost = [index for index, a in enumerate(found) if not a.aligned]
    assert lost == list(range(lost[0], 60))
    assert 33 <= lost[0] <= 37
    assert found[lost[0]].confidence == 0
    assert found[lost[0]].crop == Similarity(159.5, 119.5, 240.0)  # the middle square of the frame
    assert found[60].aligned
    assert not found[60].held


def test_a_cut_begins_anew() -> None:
    """Another room, another place: no crop glides from one to the other, not even with frames ahead."""
    pictures = heads(20)
    before, after = Similarity(90.0, 110.0, 110.0), Similarity(230.0, 130.0, 130.0)
    cut = [
        (n / 25, frame_of(head, before if n < 10 else after, seed=1 if n < 10 else 2), before if n < 10 else after)
        for n, head in enumerate(pictures)
    ]
    found = aligned(cut, Informed([where for _, _, where in cut]), ahead=0.2)
    assert max(off(found, cut)) < 2


def test_cuts_and_what_is_none() -> None:
    a, b = gray_of(room(1)), gray_of(room(2))
    assert is_cut(a, b)
    assert not is_cut(a, a)
    assert not is_cut(a, np.asarray(np.clip(a.astype(int) + 25, 0, 255), np.uint8))  # the light went on
    first, second = heads(2)
    assert not is_cut(gray_of(frame_of(first, path(0.0))), gray_of(frame_of(second, path(0.2))))


def test_flow_finds_a_known_motion() -> None:
    head = heads(1)[0]
    before, after = Similarity(150.0, 120.0, 140.0), Similarity(154.0, 117.0, 144.0, 0.05)
    motion = face_motion(gray_of(frame_of(head, before)), gray_of(frame_of(head, after)), before)
    assert motion is not None
    assert motion.agreement > 0.5
    moved = before.moved(motion.matrix)
    assert math.hypot(moved.x - after.x, moved.y - after.y) < 0.6
    assert abs(moved.side / after.side - 1) < 0.02
    assert abs(moved.angle - after.angle) < 0.015
    assert face_motion(gray_of(room()), gray_of(room()), Similarity(5.0, 5.0, 3.0)) is None


def test_of_two_faces_the_first_is_kept_unless_it_is_gone(clip: Clip) -> None:
    class Crowd(Informed):
        def find(self, frame: Pixels, near: Similarity | None) -> list[Face]:
            other = face_at(Similarity(60.0, 60.0, 110.0))
            return [other] if self.frame >= 30 else [*super().find(frame, near), other]

    found = aligned(clip, Crowd([where for _, _, where in clip]))
    assert max(off(found[:30], clip[:30])) < 6
    assert math.hypot(found[-1].crop.x - 60, found[-1].crop.y - 60) < 3
    assert any(a.held for a in found[30:35])


def test_between_detections_flow_is_enough(clip: Clip) -> None:
    detector = Informed([where for _, _, where in clip])
    found = aligned(clip, detector, ahead=0.3, every=5)
    assert len(detector.calls) <= FRAMES // 5 + 5
    assert not any(a.held for a in found)
    assert max(off(found, clip)) < 6  # of 120; the head also turns within its picture


def test_a_drawn_box_is_followed_to_the_end(clip: Clip) -> None:
    """Without any detector: drift stays small against the face."""
    where = clip[0][2]
    width = where.side / 1.6
    box = (where.x - width / 2, where.y - 0.44 * width, width, width)
    aligner = Aligner(DrawnBox(box), hold_seconds=math.inf)
    found = [aligner.align(frame, time) for time, frame, _ in clip]
    assert all(a.aligned for a in found)
    assert not found[0].held
    assert all(a.held for a in found[1:])
    assert np.mean(off(found, clip)) < 6


def test_a_framing_moves_every_crop(clip: Clip) -> None:
    plain, framed = (
        aligned(clip[:5], Informed([where for _, _, where in clip]), ahead=0.1, framing=framing)
        for framing in ((1.0, 0.0), (0.9, 0.05))
    )
    assert [b.crop for b in framed] == [a.crop.framed(0.9, 0.05) for a in plain]
    with pytest.raises(ValueError, match="a framing's scale lies in"):
        Aligner(Informed([]), framing=(0.0, 0.0))


@pytest.mark.parametrize("options", [{"every": 0}, {"hold_seconds": -1.0}])
def test_settings_that_cannot_be_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="every >= 1 and hold_seconds >= 0"):
        Aligner(Informed([]), **options)  # type: ignore[arg-type]
