"""Sources and what is read of them: order, names, fitting, times, and files that cannot be read."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from legato.errors import ConfigError, InvalidImage
from legato.images import fit
from legato.offline import find, read
from legato.offline.reading import Reading, Timing, read_image
from legato.offline.video import write_video


def picture(height: int = 32, width: int = 32, level: int = 100) -> NDArray[np.uint8]:
    """Flat but for its top row, which is red."""
    image = np.full((height, width, 3), level, np.uint8)
    image[0] = (255, 0, 0)
    return image


def save(path: Path, image: NDArray[np.uint8] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), (picture() if image is None else image)[:, :, ::-1])
    return path


def test_a_folder_is_one_sequence_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        save(tmp_path / "faces" / f"frame_{number}.png", picture(level=number))
    (source,) = find([tmp_path / "faces"])
    assert (source.name, source.kind) == ("faces", "sequence")
    item = read(source, 32)
    assert item.labels == ("frame_1", "frame_2", "frame_10")
    assert item.frames[:, 5, 5, 0].tolist() == [1, 2, 10]
    assert item.frames[0, 0, 0].tolist() == [255, 0, 0], "RGB"
    assert (item.fitted, item.skipped, item.timing) == ("", (), None)
    assert item.images.shape == (3, 3, 32, 32)
    assert item.images[0, 0, 0, 0] == 1.0


def test_files_and_folders_of_clips_are_found_by_name(tmp_path: Path) -> None:
    save(tmp_path / "clips" / "b" / "1.png")
    save(tmp_path / "clips" / "a" / "1.PNG")
    save(tmp_path / "clips" / ".hidden" / "1.png")
    (tmp_path / "clips" / "walk.mp4").touch()
    (tmp_path / "clips" / "notes.txt").touch()
    loose = save(tmp_path / "a.jpg")
    found = find([loose, tmp_path / "clips"])
    assert [(source.name, source.kind) for source in found] == [
        ("a", "image"),
        ("walk", "clip"),
        ("a-2", "sequence"),
        ("b", "sequence"),
    ]
    assert find([tmp_path / "clips"], leave_out=tmp_path / "clips" / "b")[-1].name == "a"


def test_images_named_one_by_one_are_a_sequence_where_they_belong_together(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{name}.png") for name in ("front", "left", "right")]
    assert [source.kind for source in find(files)] == ["image"] * 3
    (source,) = find(files, together=True)
    assert (source.name, source.kind, list(source.files)) == ("front-right", "sequence", files)
    assert find(files[:1], together=True)[0].kind == "image"


def test_labels_of_frames_differ(tmp_path: Path) -> None:
    files = [save(tmp_path / "x" / "1.png"), save(tmp_path / "x" / "1.jpg"), save(tmp_path / "x" / "2.png")]
    assert read(find([tmp_path / "x"])[0], 16).labels == ("1_jpg", "1_png", "2")
    files = [save(tmp_path / folder / "1.png") for folder in "yz"]
    assert read(find(files, together=True)[0], 16).labels == ("000000_1", "000001_1")


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing.png", "does not exist"), ("notes.txt", "neither an image"), ("empty", "holds neither images")],
)
def test_what_is_no_source_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=words):
        find([tmp_path / name])


def test_other_shapes_are_letterboxed_as_the_server_does_and_told(tmp_path: Path) -> None:
    wide = picture(24, 48)
    path = save(tmp_path / "wide.png", wide)
    item = read(find([path])[0], 16)
    np.testing.assert_array_equal(item.frames[0], fit(wide, 16))
    assert item.fitted == "wide.png: 48x24 -> 16x16, letterboxed"
    save(tmp_path / "mixed" / "1.png", picture(32, 32))
    save(tmp_path / "mixed" / "2.png", picture(64, 64))
    save(tmp_path / "mixed" / "3.png", picture(64, 64))
    told = read(find([tmp_path / "mixed"])[0], 32).fitted
    assert told == "mixed: 3 frames of 2 sizes (2 of 64x64, 1 of 32x32) -> 32x32, resized"
    told = read(find([tmp_path / "mixed"])[0], 16).fitted
    assert told.endswith("-> 16x16, resized")


@pytest.mark.parametrize("damage", ["cut.png", "cut.jpg", "text.png", "empty.jpg", "folder.png"])
def test_a_file_that_cannot_be_read_is_told_and_left_out(tmp_path: Path, damage: str) -> None:
    save(tmp_path / "f" / "a.png", picture(level=1))
    save(tmp_path / "f" / "z.png", picture(level=2))
    bad = tmp_path / "f" / damage
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    match damage:
        case "text.png":
            bad.write_text("no image at all")
        case "empty.jpg":
            bad.touch()
        case "folder.png":
            bad.symlink_to(tmp_path / "nowhere")
        case _:
            save(bad, noise)
            bad.write_bytes(bad.read_bytes()[:-200])
    (source,) = find([tmp_path / "f"])
    item = read(source, 32)
    assert item.labels == ("a", "z")
    if damage != "folder.png":  # a link to nothing is no file
        assert len(item.skipped) == 1
        assert str(bad) in item.skipped[0]
    with pytest.raises(InvalidImage, match=damage):
        read_image(bad)


def test_nothing_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_text("no")
    with pytest.raises(InvalidImage, match=r"a\.png is no image"):
        read(find([tmp_path / "a.png"])[0], 16)
    with pytest.raises(InvalidImage, match="none of its files can be read"):
        read(find([tmp_path])[0], 16)


def test_photos_are_upright(tmp_path: Path) -> None:
    path = save(tmp_path / "turned.jpg", picture(32, 64))
    data = path.read_bytes()
    turned = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"  # orientation 6: a quarter clockwise
    exif = b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01" + turned + b"\x00\x00\x00\x00"
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    image = read_image(path)
    assert image.shape == (64, 32, 3)
    assert image[32, -1, 0] > 150 > image[32, 0, 0], "the red edge is at the right"


def test_a_video_keeps_its_times(tmp_path: Path) -> None:
    timing = Timing(Fraction(10), Fraction(1, 1000), (0, 100, 250, 300))
    frames = np.stack([picture(32, 64, level) for level in (20, 80, 140, 200)])
    path = tmp_path / "walk.mp4"
    write_video(path, frames, timing)
    (source,) = find([path])
    item = read(source, 32)
    assert (item.name, item.kind, item.labels[-1]) == ("walk", "clip", "000003")
    assert item.timing is not None
    seconds = [pts * item.timing.tick for pts in item.timing.pts]
    assert seconds == [Fraction(0), Fraction(1, 10), Fraction(1, 4), Fraction(3, 10)]
    assert item.fitted == "walk.mp4: 4 frames of 64x32 -> 32x32, letterboxed"
    levels = item.frames[:, 20, 16, 0].astype(int)
    assert np.abs(levels - [20, 80, 140, 200]).max() <= 3


def test_a_damaged_video_gives_what_comes_before(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 32, 32, 3)).astype(np.uint8)
    path = tmp_path / "cut.mkv"
    write_video(path, noise, Timing(Fraction(10), Fraction(1, 1000), tuple(range(0, 3000, 100))))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    item = read(find([path])[0], 32)
    assert 1 <= len(item.frames) < 30
    path.write_bytes(b"no video at all")
    with pytest.raises(InvalidImage, match=r"cut\.mkv is no video that can be read"):
        read(find([path])[0], 32)


def test_without_pyav_images_are_read_and_videos_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.mp4").touch()
    code = (
        "import sys; sys.modules['av'] = None; from pathlib import Path; from legato.offline import find, read\n"
        f"image, video = find([Path({str(tmp_path)!r})])\n"
        "print(read(image, 16).frames.shape)\n"
        "try: read(video, 16)\nexcept Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "(1, 16, 16, 3)",
        "ConfigError video files need PyAV: pip install 'legato[video]' (folders of images work without it)",
    ]


def test_a_part_of_a_source_and_its_middle(tmp_path: Path) -> None:
    frames = np.stack([np.full((32, 48, 3), 20 * number, np.uint8) for number in range(8)])
    write_video(tmp_path / "clip.mp4", frames, Timing(Fraction(25), Fraction(1, 25), tuple(range(8))))
    (source,) = find([tmp_path / "clip.mp4"])
    whole = read(source, 32)
    item = read(source, 32, how=Reading(-3, None, "crop"))
    assert item.labels == ("000005", "000006", "000007")
    assert item.timing is not None
    assert whole.timing is not None
    assert item.timing.pts == tuple(pts - whole.timing.pts[5] for pts in whole.timing.pts[5:])
    assert item.fitted == "clip.mp4: 3 frames of 48x32 -> 32x32, cropped to the middle"
    assert item.frames[:, 0, 16].min() > 80  # no bar above
    assert whole.frames[-1, 0, 16].max() < 60
    assert read(source, 32, how=Reading(1, 3)).labels == ("000001", "000002")
    with pytest.raises(InvalidImage, match="none of its frames"):
        read(source, 32, how=Reading(8, None))
