"""Outputs: named and timed as the inputs, whole or not at all; and sheets that people can read."""

from __future__ import annotations

import resource
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from legato.errors import ConfigError
from legato.offline import find, labeled, read, spread, write_frames, write_json, write_npz, write_png
from legato.offline.reading import Timing
from legato.offline.video import write_video


def frames(count: int, side: int = 16) -> NDArray[np.uint8]:
    levels = np.linspace(40, 200, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, side, side, 3)).copy()


def test_outputs_look_as_their_inputs(tmp_path: Path) -> None:
    for index, image in enumerate(frames(3)):
        write_png(tmp_path / "in" / f"p{index}.png", image)
    sequence = read(find([tmp_path / "in"])[0], 16)
    image = read(find([tmp_path / "in" / "p1.png"])[0], 16)
    assert write_frames(tmp_path / "out", "edited", sequence.frames, sequence) == tmp_path / "out" / "edited"
    assert sorted(path.name for path in (tmp_path / "out" / "edited").iterdir()) == ["p0.png", "p1.png", "p2.png"]
    write_frames(tmp_path / "out", "edited", image.frames, image)
    back = cv2.imread(str(tmp_path / "out" / "edited.png"))
    np.testing.assert_array_equal(back, image.frames[0])
    with pytest.raises(ValueError, match="p1 has 1 frames; got 3"):
        write_frames(tmp_path / "out", "edited", sequence.frames, image)


def test_a_video_comes_back_with_its_length_and_times(tmp_path: Path) -> None:
    timing = Timing(Fraction(30000, 1001), Fraction(1, 90000), (0, 3003, 9009, 12012))
    write_video(tmp_path / "in.mp4", frames(4, 64), timing)
    item = read(find([tmp_path / "in.mp4"])[0], 32)
    written = write_frames(tmp_path / "out", "reconstruction", item.frames, item)
    assert written == tmp_path / "out" / "reconstruction.mp4"
    back = read(find([written])[0], 32)
    assert item.timing is not None
    assert back.timing is not None
    assert [pts * back.timing.tick for pts in back.timing.pts] == [pts * item.timing.tick for pts in item.timing.pts]
    assert len(back.frames) == 4


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    write_json(target, {"done": 1})
    before = target.read_text()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))  # as a disk that is full after 1000 bytes
    try:
        with pytest.raises(ConfigError, match=r"report\.json cannot be written: File too large. Make room, or name"):
            write_json(target, {"done": "x" * 2000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert target.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_npz(tmp_path / "file" / "x.npz", {"a": np.zeros(1)})


def test_a_sheet_has_a_row_for_each_name_and_enlarges_small_images() -> None:
    rows = [
        ("input", frames(3, 64)),
        ("encoder", frames(3, 64)),
        ("consecutive, share=static, 50 steps", frames(3, 64)),
    ]
    sheet = labeled(rows, ["0", "12", "a name that is much too long for a column"])
    assert sheet.shape[0] == 22 + 3 * 128
    assert (sheet[22 + 10, -3 * 128 + 5] == 40).all()
    assert (sheet[22 + 128 + 10, -5] == 200).all()
    assert (sheet[:22, -128:] < 200).any(), "the last column's name, cut"
    assert labeled(rows[:1], ["0", "1", "2"]).shape[1] < sheet.shape[1], "the longest name makes the margin"
    assert labeled([("x", frames(1, 512))], [""]).shape[0] == 22 + 256
    single = [(name, images[:1]) for name, images in rows]
    assert labeled(single, ["photo"]).shape[0] == 22 + 256, "side by side, and large"
    assert labeled(single * 4, ["photo"]).shape[0] == 22 + 12 * 128
    with pytest.raises(ValueError, match="row 'input' has 3 images under 1 columns"):
        labeled(rows, ["0"])


@pytest.mark.parametrize(("count", "most", "wanted"), [(3, 10, [0, 1, 2]), (100, 3, [0, 50, 99]), (11, 10, None)])
def test_spread_keeps_the_first_and_the_last(count: int, most: int, wanted: list[int] | None) -> None:
    found = spread(count, most)
    assert wanted is None or found == wanted
    assert (found[0], found[-1], len(found), len(set(found))) == (0, count - 1, min(count, most), len(found))
