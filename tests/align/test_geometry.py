"""FFHQ's crop as one similarity: known cases, equivariance, and pictures through it and back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from legato_align.geometry import Similarity, centered, crop, ffhq, from_box, from_eyes
from legato_align.paste import Paster, Seam
from tests.align.placed import MARKS, heads, room
from tests.tolerances import CROP_LEVELS, CROP_ROUNDING


def values(crop: Similarity) -> list[float]:
    return [crop.x, crop.y, crop.side, crop.angle]


def test_an_upright_face_by_hand() -> None:
    """d_e = (2, 0), d_m = (0, 2): x points right, half a side is max(2 * 2, 1.8 * 2), the center e + 0.1 d_m."""
    found = ffhq(np.array([(-1.0, 0.0), (1.0, 0.0)]), np.array([0.0, 2.0]))
    np.testing.assert_allclose(values(found), [0, 0.2, 8, 0], **CROP_ROUNDING)
    long = ffhq(np.array([(-1.0, 0.0), (1.0, 0.0)]), np.array([0.0, 4.0]))
    assert long.side == pytest.approx(2 * 1.8 * 4)


@pytest.mark.parametrize("angle", [-2.5, -0.3, 0.0, 0.7, 3.0])
def test_a_moved_face_has_a_moved_crop(angle: float) -> None:
    marks = np.array([(100.0, 80.0), (140.0, 86.0), (118.0, 130.0)])
    before = ffhq(marks[:2], marks[2])
    scale, shift = 1.7, np.array([30.0, -12.0])
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    after = ffhq(marks[:2] @ turn.T + shift, turn @ marks[2] + shift)
    expected = before.moved(np.hstack([turn, shift[:, None]]))
    np.testing.assert_allclose(values(after)[:3], values(expected)[:3], **CROP_ROUNDING)
    assert math.remainder(after.angle - expected.angle, 2 * math.pi) == pytest.approx(0)


def test_the_mean_face_of_ffhq_fills_its_crop() -> None:
    where = Similarity(90.0, 70.0, 64.0, 0.4)
    at = where.to_frame(MARKS)
    found = ffhq(at[:2], at[2])
    assert found.side / where.side == pytest.approx(0.984)
    assert found.angle == pytest.approx(0.4)
    by_eyes = from_eyes(at[:2])
    np.testing.assert_allclose(values(by_eyes), values(found), **CROP_ROUNDING)
    np.testing.assert_allclose(where.to_unit(at), MARKS, **CROP_ROUNDING)


def test_a_box_gives_an_upright_crop() -> None:
    found = from_box((10.0, 20.0, 100.0, 100.0), side=1.6, down=0.44)
    assert values(found) == [59.5, 63.5, 160.0, 0.0]


def test_what_is_no_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="eyes and mouth are one point"):
        ffhq(np.zeros((2, 2)), np.zeros(2))
    for wrong in ((0.0, 0.0, 0.0), (0.0, math.nan, 4.0), (math.inf, 0.0, 4.0)):
        with pytest.raises(ValueError, match="a positive side"):
            Similarity(*wrong)


def test_a_crop_that_lies_on_the_pixels_is_those_pixels() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    where = Similarity(20.0 + 15.5, 10.0 + 15.5, 32.0)
    np.testing.assert_array_equal(crop(frame, where, 32), frame[10:42, 20:52])
    turned = Similarity(35.5, 25.5, 32.0, math.pi / 2)
    np.testing.assert_array_equal(crop(frame, turned, 32), np.rot90(frame[10:42, 20:52], 1))


def test_a_smaller_crop_is_antialiased() -> None:
    """One-pixel stripes, 4 to 1: bilinear sampling alone would show them as moire."""
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    small = crop(stripes, centered(128, 128), 32)
    assert small.std() < 4
    assert small.mean() == pytest.approx(127.5, abs=CROP_LEVELS["atol"])


def test_beyond_the_edge_it_is_mirrored() -> None:
    frame = room()
    outside = crop(frame, Similarity(0.5, 120.5, 64.0), 64)
    np.testing.assert_array_equal(outside[:, :31], outside[:, 32:63][:, ::-1])


@pytest.mark.parametrize("angle", [0.0, 0.3, -2.0])
def test_there_and_back_is_the_frame(angle: float) -> None:
    """A crop put back where it came from changes nothing that can be seen."""
    head = heads(1)[0]
    frame = Paster(Seam(color=False)).place(room(), head, Similarity(160.0, 120.0, 128.0, 0.2))
    where = Similarity(158.3, 121.6, 130.0, angle)
    back = Paster(Seam(color=False)).place(frame, crop(frame, where, 256), where)
    error = np.abs(back.astype(int) - frame)
    assert error.mean() < 1
    assert np.percentile(error, 99.5) < 12


def test_a_framing_leads_from_one_crop_to_another() -> None:
    """Down is along the crop's own axis; the unit crop knows where."""
    where = Similarity(90.0, 70.0, 64.0, 0.4)
    framed = where.framed(0.9, 0.1)
    np.testing.assert_allclose(where.to_unit(np.array([(framed.x, framed.y)])), [(0.5, 0.6)], **CROP_ROUNDING)
    assert framed.side == pytest.approx(57.6)
    assert framed.angle == 0.4
