"""Pictures back into their frames: nothing outside is touched, no seam, colors that meet and do not flicker."""

from __future__ import annotations

import numpy as np
import pytest

from legato_align.geometry import Pixels, Similarity, crop
from legato_align.paste import Paster, Seam
from tests.align.placed import frame_of, heads, room

WHERE = Similarity(150.0, 120.0, 150.0, 0.2)


def tinted(picture: Pixels, gain: float, shift: float) -> Pixels:
    return np.asarray(np.clip(picture * gain + shift, 0, 255), np.uint8)


def pasted(paster: Paster, frame: Pixels, picture: Pixels, time: float = 0.0) -> Pixels:
    paster.measure(frame, picture, WHERE, time)
    return paster.place(frame, picture, WHERE)


def test_outside_of_the_crop_nothing_is_touched() -> None:
    frame = room()
    before = frame.copy()
    out = pasted(Paster(), frame, heads(1)[0])
    np.testing.assert_array_equal(frame, before)  # the input stays
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
    unit = WHERE.to_unit(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64))
    outside = ((unit < 0) | (unit > 1)).any(axis=1).reshape(frame.shape[:2])
    np.testing.assert_array_equal(out[outside], frame[outside])
    assert (out[~outside] != frame[~outside]).any()


def test_a_crop_beyond_the_frame_is_pasted_as_far_as_it_goes() -> None:
    frame = room()
    for where in (Similarity(0.0, 0.0, 90.0), Similarity(319.0, 239.0, 90.0, 1.0), Similarity(-500.0, 0.0, 90.0)):
        paster = Paster()
        paster.measure(frame, heads(1)[0], where, 0.0)
        assert paster.place(frame, heads(1)[0], where).shape == frame.shape


def test_a_picture_in_other_light_comes_back_in_the_frames() -> None:
    frame = frame_of(heads(1)[0], WHERE)
    true = crop(frame, WHERE, 128)
    wrong = tinted(true, 0.8, 20)
    matched, plain = (pasted(Paster(Seam(color=color)), frame, wrong) for color in (True, False))
    error = [np.abs(out.astype(int) - frame).mean() for out in (matched, plain)]
    assert error[0] < error[1] / 3


def test_an_edit_of_colors_is_not_undone() -> None:
    """Colors are measured against the reconstruction; what the edit adds to it stays."""
    frame = frame_of(heads(1)[0], WHERE)
    reconstruction = crop(frame, WHERE, 128)
    edited = tinted(reconstruction, 1.0, 30)
    paster = Paster()
    paster.measure(frame, reconstruction, WHERE, 0.0)
    middle = np.s_[100:140, 130:170]
    change = paster.place(frame, edited, WHERE)[middle].astype(int) - frame[middle]
    assert 22 < change.mean() < 32


def test_the_seam_is_no_steeper_than_the_picture() -> None:
    """Across the oval's edge levels change as smoothly as the frame itself does."""
    frame = room()
    for shift in (-40, 40):
        out = pasted(Paster(), frame, tinted(crop(frame, WHERE, 128), 1.0, shift))
        steps = [np.abs(np.diff(picture.astype(int), axis=1)).max() for picture in (frame, out)]
        assert steps[1] <= steps[0] + 2


def test_colors_do_not_flicker() -> None:
    """A model whose brightness jumps from frame to frame: the frame's does, too, by a small part of that."""
    frame = frame_of(heads(1)[0], WHERE)
    true, paster = crop(frame, WHERE, 128), Paster()
    given, seen = [], []
    for index in range(30):
        picture = tinted(true, 1.0, 10 * (index % 2))
        paster.measure(frame, true, WHERE, index / 25)
        given.append(float(picture.mean()))
        seen.append(float(paster.place(frame, true, WHERE)[100:140, 130:170].mean()))
    assert np.abs(np.diff(given)).min() > 5
    assert np.abs(np.diff(seen)).max() < 1
    drifting = Paster()
    levels = []
    for index in range(30):
        levels.append(float(pasted(drifting, frame, tinted(true, 1.0, 10 * (index % 2)), index / 25)[120, 150].mean()))
    drifting.restart()
    fresh = float(pasted(drifting, frame, tinted(true, 1.0, 10), 2.0)[120, 150].mean())
    assert abs(fresh - float(frame[120, 150].mean())) < 4  # another scene does not inherit colors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feather": 0.0}, "a feather is wider than 0"),
        ({"width": 0.55}, "lie within the crop"),
        ({"center_y": 0.9}, "lie within the crop"),
    ],
)
def test_seams_that_cannot_be_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Seam(**settings)  # type: ignore[arg-type]
