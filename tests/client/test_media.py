"""Clips on disk, read and written: every frame, at its time, under its name."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from legato_client import Image, png
from legato_client.images import jpeg
from legato_client.media import MediaError, Shot, open_sink, open_source
from tests.tolerances import VIDEO_LEVELS


def flat(level: int, side: int = 32) -> NDArray[np.uint8]:
    return np.full((side, side, 3), level, np.uint8)


def image(pixels: NDArray[np.uint8]) -> Image:
    return Image("raw", pixels.tobytes(), pixels.shape[1], pixels.shape[0])


def write_video(path: Path, times: list[int], tick: Fraction = Fraction(1, 1000)) -> None:
    """A video whose n-th frame is gray of level 40 + 10 n, at the given ticks."""
    with open_sink(path, Fraction(25), tick) as sink:
        for index, pts in enumerate(times):
            sink.write(image(flat(40 + 10 * index)), Shot(index, pts, ""))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_a_video_keeps_its_frames_and_their_uneven_times(tmp_path: Path, suffix: str) -> None:
    path, times = tmp_path / f"clip{suffix}", [0, 40, 75, 200, 233]
    write_video(path, times)
    source = open_source(path, Fraction(1))
    frames = list(source.frames())
    assert [round(float(shot.pts * source.tick) * 1000) for shot, _ in frames] == times
    for index, (_, pixels) in enumerate(frames):
        np.testing.assert_allclose(np.asarray(pixels), flat(40 + 10 * index), **VIDEO_LEVELS)


def test_a_video_that_begins_late_counts_from_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    write_video(path, [1000, 1040])
    assert [shot.pts * open_source(path, Fraction(1)).tick for shot, _ in open_source(path, Fraction(1)).frames()] == [
        0,
        Fraction(40, 1000),
    ]


def test_two_frames_at_one_time_are_both_written(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, [0, 40, 40, 41])
    shots = [shot for shot, _ in open_source(path, Fraction(1)).frames()]
    assert len(shots) == 4
    assert all(before.pts < after.pts for before, after in pairwise(shots))


def test_a_turned_video_is_read_upright(tmp_path: Path) -> None:
    """Phones store the picture lying, and a matrix beside it: the one in the track's header, here turned by hand."""
    path, left_bright = tmp_path / "phone.mp4", flat(40, 64)
    left_bright[:, :32] = 200
    with open_sink(path, Fraction(25), Fraction(1, 25)) as sink:
        sink.write(image(left_bright), Shot(0, 0, ""))
    data = path.read_bytes()
    straight = b"".join(v.to_bytes(4, "big") for v in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    clockwise = b"".join(v.to_bytes(4, "big", signed=True) for v in (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30))
    header = data.index(b"tkhd")
    assert data.index(straight, header) - header < 64
    path.write_bytes(data[:header] + data[header:].replace(straight, clockwise, 1))
    ((_, pixels),) = open_source(path, Fraction(1)).frames()
    assert isinstance(pixels, np.ndarray)
    top, bottom = pixels[:24].mean(), pixels[-24:].mean()
    assert top > bottom + 100  # left becomes top when turned clockwise


def test_a_folder_is_read_in_natural_order_and_written_under_the_same_names(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (10, 2, 1):
        (folder / f"frame_{number}.png").write_bytes(png.write(flat(number)))
    (folder / "frame_11.JPG").write_bytes(jpeg(flat(11)))
    (folder / "notes.txt").write_text("no frame")
    source = open_source(folder, Fraction(30))
    frames = list(source.frames())
    assert [shot.name for shot, _ in frames] == ["frame_1", "frame_2", "frame_10", "frame_11"]
    assert source.count == 4
    assert source.tick == Fraction(1, 30)
    out = tmp_path / "out" / "deep"
    with open_sink(out, source.rate, source.tick) as sink:
        for shot, picture in frames:
            sink.write(Image("png" if shot.index < 3 else "jpeg", bytes(picture), 0, 0), shot)
    assert sorted(file.name for file in out.iterdir()) == ["frame_1.png", "frame_10.png", "frame_11.png", "frame_2.png"]
    assert (out / "frame_2.png").read_bytes() == (folder / "frame_2.png").read_bytes()
    assert png.read((out / "frame_11.png").read_bytes()).shape == (32, 32, 3)


def test_clips_that_are_none_are_refused_with_what_was_wanted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    sound = tmp_path / "sound.mkv"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
    for path, message in [
        (tmp_path / "missing.mp4", "does not exist; a clip is a video file or a folder"),
        (tmp_path / "empty", "holds no PNG or JPEG"),
        (text, "is not a video that can be read"),
        (sound, "holds no video stream"),
    ]:
        with pytest.raises(MediaError, match=message):
            open_source(path, Fraction(25))


def test_frames_that_would_overwrite_each_other_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(MediaError, match=r"both be written as a\.png: rename one"):
        open_source(tmp_path, Fraction(25))


def test_a_damaged_video_gives_what_can_be_read_then_says_so(tmp_path: Path) -> None:
    path, noise = tmp_path / "clip.mp4", np.random.default_rng(0)
    with open_sink(path, Fraction(25), Fraction(1, 25)) as sink:
        for index in range(20):
            sink.write(image(noise.integers(0, 256, (64, 64, 3), np.uint8)), Shot(index, index, ""))
    data = path.read_bytes()
    first, last = data.index(b"mdat") + 4, data.index(b"moov")
    hole = slice(first + (last - first) // 2, first + (last - first) * 3 // 4)
    path.write_bytes(data[: hole.start] + bytes(hole.stop - hole.start) + data[hole.stop :])
    frames = open_source(path, Fraction(25)).frames()
    assert next(frames)[0].index == 0
    with pytest.raises(MediaError, match="is damaged from here on"):
        list(frames)


def test_outputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(MediaError, match=r"the output is \.mp4"):
        open_sink(tmp_path / "clip.gif", Fraction(25), Fraction(1, 25))
    with pytest.raises(MediaError, match="is a file; a folder was to be written"):
        open_sink(file, Fraction(25), Fraction(1, 25))
    sink = open_sink(Path("/proc/nowhere.mp4"), Fraction(25), Fraction(1, 25))
    with pytest.raises(MediaError, match="cannot be written"):
        sink.write(image(flat(0)), Shot(0, 0, ""))


def test_without_pyav_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_text("")
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "legato_client.video", raising=False)
    with pytest.raises(MediaError, match=r"pip install 'legato-client\[video\]'"):
        open_source(tmp_path / "clip.mp4", Fraction(25))
