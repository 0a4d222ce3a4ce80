"""The command `legato-client` against a real server: frame for frame, and a clear word for everything that is wrong."""

from __future__ import annotations

import json
import socket
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from legato_client import Image, png
from legato_client.cli import main
from legato_client.images import jpeg
from legato_client.local import LocalServer
from legato_client.media import Shot, open_sink, open_source
from tests.rpc.model import DIM, LAYERS
from tests.rpc.wire import RESOLUTION

Clip = list[NDArray[np.uint8]]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def video(tmp_path: Path, clip: Clip) -> Path:
    """The clip as a 64 x 48 video at uneven times (milliseconds)."""
    path = tmp_path / "in.mp4"
    with open_sink(path, Fraction(25), Fraction(1, 1000)) as sink:
        for index, frame in enumerate(clip):
            pixels = np.ascontiguousarray(frame[:48])
            sink.write(Image("raw", pixels.tobytes(), 64, 48), Shot(index, 40 * index + index % 3, ""))
    return path


@pytest.fixture
def folder(tmp_path: Path, clip: Clip) -> Path:
    """Six frames, the first and the fourth of which are no images."""
    path = tmp_path / "in"
    path.mkdir()
    for index, frame in enumerate(clip[:6]):
        data = b"\xff\xd8\xff damaged" if index in (0, 3) else png.write(frame)
        (path / f"frame_{index}.png").write_bytes(data)
    return path


def run(server: LocalServer, *arguments: object) -> int:
    return main([str(argument) for argument in (*arguments, "--server", server.address)])


def times(path: Path) -> list[Fraction]:
    source = open_source(path, Fraction(25))
    return [shot.pts * source.tick for shot, _ in source.frames()]


def test_a_video_comes_back_with_as_many_frames_at_the_same_times(
    server: LocalServer, video: Path, tmp_path: Path, capsys: Captured
) -> None:
    out, latents = tmp_path / "out.mkv", tmp_path / "deep" / "latents.npz"
    assert run(server, "stream", video, out, "--edit", "smile=1.5", "--latents", latents, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["frames_in"], report["frames_out"], report["frames_replaced"]) == (12, 12, 0)
    assert report["show"] == "edited"
    assert report["psnr_db"] is None
    assert report["frame_age_ms"].keys() == {"p50", "p95", "p99"}
    assert report["stage_ms"]["encode"] > 0
    assert [round(time * 1000) for time in times(out)] == [round(time * 1000) for time in times(video)]
    _, first = next(iter(open_source(out, Fraction(25)).frames()))
    assert np.asarray(first).shape == (RESOLUTION, RESOLUTION, 3)
    saved = np.load(latents)
    assert saved["latents"].shape == (12, LAYERS, DIM)
    assert saved["latents"].dtype == np.float32
    assert np.array_equal(np.round(saved["time_seconds"], 3), [float(round(time, 3)) for time in times(video)])
    assert not saved["replaced"].any()
    assert str(saved["model_digest"]) == report["model_digest"]


def test_bad_frames_are_replaced_counted_and_told(
    server: LocalServer, folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    assert run(server, "stream", folder, out) == 0
    said = capsys.readouterr()
    assert "6 frames of 64x64 (reconstruction)" in said.out
    assert " dB" in said.out
    assert "2 frames were not answered (0 dropped, 2 failed)" in said.err
    assert "the first said: " in said.err
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    assert sorted(files) == [f"frame_{index}.png" for index in range(6)]
    assert files["frame_0.png"] == files["frame_1.png"]  # before the first good one, that one
    assert files["frame_3.png"] == files["frame_2.png"]  # later, the last good one
    assert len(set(files.values())) == 4


def test_latest_at_the_pace_of_a_camera_still_gives_every_frame(
    server: LocalServer, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.webm"
    assert run(server, "stream", folder, out, "--policy", "latest", "--live", "--fps", "50") == 0
    assert [round(time * 1000) for time in times(out)] == [0, 20, 40, 60, 80, 100]


def test_a_clip_without_one_good_frame_writes_nothing(server: LocalServer, tmp_path: Path, capsys: Captured) -> None:
    bad = tmp_path / "in"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"text")
    assert run(server, "stream", bad, tmp_path / "out") == 1
    assert "none of the 1 frames was answered: image bytes are a JPEG or PNG" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "kind"), [("out.png", "png"), ("out.jpg", "jpeg")])
def test_one_image(server: LocalServer, tmp_path: Path, clip: Clip, capsys: Captured, name: str, kind: str) -> None:
    source, out, latents = tmp_path / "in.jpg", tmp_path / name, tmp_path / "w.npz"
    source.write_bytes(jpeg(clip[0]))
    arguments = ("invert", source, out, "--edit", "yaw=-1", "--steps", "1", "--latents", latents, "--json")
    assert run(server, *arguments) == 0
    assert json.loads(capsys.readouterr().out)["psnr_db"] > 0
    assert Image("png" if kind == "png" else "jpeg", out.read_bytes(), 0, 0).pixels.shape == (64, 64, 3)
    assert np.load(latents)["latents"].shape == (LAYERS, DIM)


def test_models_and_directions_are_listed(server: LocalServer, capsys: Captured) -> None:
    assert run(server, "models") == 0
    assert "tiny  64 px, latents 10 x 16, sha256 " in capsys.readouterr().out
    assert run(server, "directions") == 0
    assert "smile  response  2.00  leakage  0.10  w+  more smile" in capsys.readouterr().out
    assert run(server, "models", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["resolution"] == RESOLUTION
    assert run(server, "directions", "--json") == 0
    assert [found["name"] for found in json.loads(capsys.readouterr().out)] == ["smile", "yaw"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stream", "missing.mp4", "out.mp4"), "missing.mp4 does not exist; a clip is a video file or a folder"),
        (("stream", "FOLDER", "out.gif"), "the output is .mp4, .mkv, .mov, .webm, or a folder"),
        (("stream", "FOLDER", "out", "--show", "edited"), "--show edited needs an --edit NAME=STRENGTH"),
        (("stream", "FOLDER", "out", "--edit", "charm=1"), "unknown direction 'charm' of model 'tiny'; known: smile"),
        (("stream", "FOLDER", "out", "--edit", "smile=99"), "a finite number within +-10"),
        (("stream", "FOLDER", "out", "--model", "other"), "unknown model 'other'; this server has 'tiny'"),
        (("invert", "missing.png", "out.png"), "missing.png does not exist"),
        (("invert", "IMAGE", "out.bmp"), "the output is a .png or .jpg file"),
        (("invert", "FOLDER", "out.bmp"), "the output is .mp4, .mkv, .mov, .webm, or a folder"),
        (("invert", "FOLDER", "out", "--steps", "2"), "write --method consecutive:steps=N"),
        (("invert", "FOLDER", "out"), "frame 0: the JPEG's header cannot be read"),
        (("invert", "IMAGE", "out.png", "--method", "magic"), "no method is named 'magic'; there are encoder, w,"),
        (("invert", "IMAGE", "out.png", "--method", "consecutive"), "consecutive images are at least 2"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    server: LocalServer, folder: Path, tmp_path: Path, capsys: Captured, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    places = {"FOLDER": str(folder), "IMAGE": str(folder / "frame_1.png"), "out": str(tmp_path / "out")}
    assert run(server, *(places.get(argument, argument) for argument in arguments)) == 1
    said = capsys.readouterr().err
    assert said.startswith("legato-client: ")
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("stream", "in", "out", "--edit", "smile"),
            "an edit is NAME=STRENGTH, as in smile=2 or yaw=-1.5; got 'smile'",
        ),
        (("stream", "in", "out", "--edit", "=2"), "got '=2'"),
        (("stream", "in", "out", "--edit", "smile=nan"), "got 'smile=nan'"),
        (("stream", "in", "out", "--edit", "smile=big"), "got 'smile=big'"),
        (("stream", "in", "out", "--steps", "-1"), "a count, 0 or more; got '-1'"),
        (("stream", "in", "out", "--fps", "0"), "frames per second, as in 25 or 30000/1001; got '0'"),
        (("stream", "in", "out", "--policy", "newest"), "invalid choice: 'newest'"),
        ((), "COMMAND"),
    ],
)
def test_wrong_usage_ends_with_the_rule(capsys: Captured, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_server_that_is_not_there_leaves_no_output(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        assert main(["stream", str(folder), str(tmp_path / "out"), "--server", address]) == 1
    assert f"no server answers at {address}: is `legato serve` running there?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
