"""`stream --align face` against a real server: every frame, its time and the sound come out; only the face is new."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from legato_align.aligner import Aligner
from legato_align.detectors import open_detector
from legato_align.detectors.haar import HaarCascade
from legato_align.detectors.lbp import LbpCascade
from legato_align.smoothing import Steadiness
from legato_client import Alignment, Client, Failed, Image, Outputs, png
from legato_client.cli import main
from legato_client.footage import place
from legato_client.images import jpeg
from legato_client.local import LocalServer, local_server
from legato_client.media import Shot, open_sink, open_source
from tests.align.placed import FOOTAGE, Informed, footage, jitter
from tests.rpc.model import DIM, LAYERS
from tests.tolerances import SOUND_SECONDS, VIDEO_LEVELS

Captured = pytest.CaptureFixture[str]
FRAMES = 20
BOX = "120,80,76,76"  # the head of the first frame


def times_of(index: int) -> int:
    """Milliseconds, uneven."""
    return 40 * index + (7, 0, 13)[index % 3]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A placed head, 320 x 240 at uneven times, with sound that begins before the picture."""
    path = tmp_path_factory.mktemp("footage") / "filmed.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "8"})
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=16000)
        for index, (_, pixels, _) in enumerate(footage(FRAMES)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 200 + times_of(index), Fraction(1, 1000)
            container.mux(video.encode(frame))
            wave = (np.sin(np.arange(640 * index, 640 * index + 640) * 0.05) * 9000).astype(np.int16)
            samples = av.AudioFrame.from_ndarray(wave[None], layout="mono", format="s16")
            samples.sample_rate, samples.pts = 16000, 640 * index
            container.mux(sound.encode(samples))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def run(server: LocalServer, *arguments: object) -> int:
    return main([str(argument) for argument in (*arguments, "--server", server.address)])


def frames_of(path: Path) -> list[tuple[float, NDArray[np.uint8]]]:
    source = open_source(path, Fraction(25))
    return [(round(float(shot.pts * source.tick), 3), np.asarray(pixels)) for shot, pixels in source.frames()]


def sound_of(path: Path) -> tuple[float, list[bytes]]:
    """When the sound begins, seconds after the picture, and its packets."""
    begins: dict[str, float] = {}
    packets = []
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is not None:
                kind, time = packet.stream.type, float(packet.pts * packet.time_base)
                begins[kind] = min(begins.get(kind, time), time)
                packets += [bytes(packet)] if kind == "audio" else []
    return begins["audio"] - begins["video"], packets


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_frame_its_time_and_the_sound_come_out(
    server: LocalServer, filmed: Path, tmp_path: Path, capsys: Captured, suffix: str
) -> None:
    out, saved = tmp_path / f"out{suffix}", tmp_path / "out.npz"
    assert run(server, "stream", filmed, out, "--align", "face", "--face-box", BOX, "--latents", saved, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["frames_in"], said["frames_out"], said["frames_replaced"]) == (FRAMES, FRAMES, 0)
    assert said["alignment"] | {"note": ""} == {
        "detector": "box",
        "on": "client",
        "note": "",
        "frames_aligned": FRAMES,
        "frames_held": FRAMES - 1,
        "frames_without_face": 0,
    }
    before, after = frames_of(filmed), frames_of(out)
    assert [time for time, _ in after] == [time for time, _ in before]
    assert [round(time * 1000) for time, _ in before] == [times_of(n) - times_of(0) for n in range(FRAMES)]
    (offset, packets), (offset_out, packets_out) = sound_of(filmed), sound_of(out)
    assert packets == packets_out
    assert offset == pytest.approx(offset_out, abs=SOUND_SECONDS)
    for (_, a), (_, b) in zip(before, after, strict=True):
        assert a.shape == b.shape
        change = np.abs(a.astype(int) - b)
        assert change[:, :60].mean() < 2.5  # beside the head: what the codec does
        assert change[90:150, 130:190].mean() > 8  # an untrained model's face
    arrays = np.load(saved)
    assert arrays["latents"].shape == (FRAMES, LAYERS, DIM)
    assert arrays["aligned"].all()
    assert arrays["held"].sum() == FRAMES - 1
    assert (np.diff(arrays["confidence"]) < 0).all()
    assert arrays["crop"].shape == (FRAMES, 4)


def test_variants_are_pasted_too_and_folders_work(server: LocalServer, tmp_path: Path, capsys: Captured) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index, (_, pixels, _) in enumerate(footage(6)):
        (folder / f"f{index}.png").write_bytes(png.write(pixels))
    edits = ("--edit", "smile=2", "--variant", "turned:yaw=3")
    assert run(server, "stream", folder, out, "--align", "face", "--face-box", BOX, *edits) == 0
    said = capsys.readouterr()
    assert "faces put back" in said.out
    assert "faces by box: in 6 frames, 5 of them carried on without a detection, none in 0" in said.out
    assert "followed from the box that was drawn" in said.err
    names = [f"f{index}.png" for index in range(6)]
    assert sorted(file.name for file in out.iterdir()) == names
    assert sorted(file.name for file in (tmp_path / "out.turned").iterdir()) == names
    first, other = (png.read((path / "f0.png").read_bytes()) for path in (out, tmp_path / "out.turned"))
    assert first.shape == other.shape == (240, 320, 3)
    assert not np.array_equal(first, other)


def test_frames_without_a_face_pass_as_they_are(server: LocalServer) -> None:
    """They are not sent either: the session's state holds faces alone."""
    clip = list(footage(12))
    detector = Informed([where for _, _, where in clip], missing=range(4, 9))

    def frames() -> Any:
        for index, (_, pixels, _) in enumerate(clip):
            detector.at(index)
            yield Shot(index, index, ""), pixels

    with Client(server.address) as client, client.open(outputs=Outputs(format="raw")) as session:
        aligner = Aligner(detector, hold_seconds=0.0)
        placed = list(place(session, frames(), Fraction(1, 25), aligner))
        stats = session.close()
    assert [one.shot.index for one in placed] == list(range(12))
    gone = [one.shot.index for one in placed if one.result is None]
    assert gone == [4, 5, 6, 7, 8]
    for one, (_, pixels, _) in zip(placed, clip, strict=True):
        told = None if one.result is None else one.result.alignment
        assert one.alignment.aligned == (told is not None)
        assert np.array_equal(one.pixels, pixels) == (one.result is None)
        if told is not None:
            assert (told.aligned, told.held, told.x) == (True, False, one.alignment.crop.x)
    assert stats.frames_received == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("camera:93", "out.mp4"), "there is no camera 93, or another program has it"),
        (("window", "out.mp4"), "window is an output; an input is a video file, a folder, or camera:0"),
        (("FILM", "camera:0"), "camera:0 is an input; an output is a video file"),
        (("FILM", "virtualcam"), r"pip install 'legato-client[virtualcam]'"),
        (("FILM", "window"), "pip install opencv-python; or write to a file"),
        (("FILM", "out.mp4", "--align", "face", "--face-model", "no.onnx"), "no.onnx does not exist"),
        (("FILM", "out.mp4", "--align", "face", "--face-box", BOX, "--beta", "-1"), "beta >= 0"),
        (
            ("FILM", "out.mp4", "--align", "face", "--align-on", "server", "--face-box", BOX),
            "the server's own detector is used",
        ),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    server: LocalServer, filmed: Path, tmp_path: Path, capsys: Captured, arguments: tuple[str, ...], message: str
) -> None:
    places = {"FILM": str(filmed), "out.mp4": str(tmp_path / "out.mp4")}
    assert run(server, "stream", *(places.get(word, word) for word in arguments)) == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_unaligned_input_is_warned_of(server: LocalServer, filmed: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run(server, "stream", filmed, tmp_path / "out.mp4") == 0
    said = capsys.readouterr().err
    assert "this input looks unaligned: frames are 320x240, not square: they come letterboxed." in said
    assert "--align face finds them" in said
    assert sound_of(tmp_path / "out.mp4")[1] == sound_of(filmed)[1]
    assert run(server, "stream", filmed, tmp_path / "quiet.mp4", "--no-sound") == 0
    with av.open(str(tmp_path / "quiet.mp4")) as container:
        assert not container.streams.audio


def test_sound_that_a_file_cannot_take_is_left_out_and_said(
    server: LocalServer, filmed: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert run(server, "stream", filmed, tmp_path / "out.webm") == 0
    assert "sound left out: .webm takes no aac; write an .mkv" in capsys.readouterr().err
    assert len(frames_of(tmp_path / "out.webm")) == FRAMES


@pytest.mark.parametrize("size", [(33, 47), (720, 1280)])
def test_odd_sides_and_high_definition_keep_their_colors(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), (200, 60, 30), np.uint8)
    path = tmp_path / "out.mp4"
    with open_sink(path, Fraction(25), Fraction(1, 25)) as sink:
        sink.write(Image("raw", pixels.tobytes(), size[1], size[0]), Shot(0, 0, ""))
    ((_, found),) = frames_of(path)
    np.testing.assert_allclose(found, pixels, **VIDEO_LEVELS)


def enlarged(count: int) -> list[NDArray[np.uint8]]:
    """Placed heads at 640 x 480: a cascade wants a face of some size."""
    return [np.repeat(np.repeat(pixels, 2, 0), 2, 1) for _, pixels, _ in footage(count)]


@pytest.mark.skipif(LbpCascade.is_here() or HaarCascade.is_here(), reason="this server does find faces")
def test_a_server_without_a_detector_says_so(
    server: LocalServer, filmed: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert run(server, "stream", filmed, tmp_path / "out.mp4", "--align", "face", "--align-on", "server") == 1
    assert "this server finds no faces: no face detector is here" in capsys.readouterr().err


@pytest.mark.skipif(not (LbpCascade.is_here() or HaarCascade.is_here()), reason="no cascade is installed")
def test_the_server_aligns_as_the_client_does(server: LocalServer) -> None:
    """The same code finds the same crops on either side; every result says where its crop lies."""
    shots = [(Shot(index, index, ""), jpeg(pixels)) for index, pixels in enumerate(enlarged(10))]
    tick, asked = Fraction(1, 25), Outputs(format="raw")
    with Client(server.address) as client:
        with client.open(outputs=asked) as session:
            here = list(place(session, shots, tick, Aligner(open_detector())))
        with client.open(outputs=asked, alignment=Alignment()) as session:
            there = list(place(session, shots, tick, None))
        with client.open(outputs=asked, alignment=Alignment()) as session:
            (answer,) = session.stream([np.full((120, 160, 3), 90, np.uint8)])
    assert isinstance(answer, Failed)
    assert answer.reason == "NO_FACE"
    found = [one for one in there if one.result is not None]
    assert len(found) >= 8
    for a, b in zip(here, there, strict=True):
        assert (a.result is None) == (b.result is None)
        assert a.alignment.aligned == b.alignment.aligned
        if a.result is not None and b.result is not None:
            assert a.alignment.crop.x == pytest.approx(b.alignment.crop.x)
            assert a.alignment.crop.side == pytest.approx(b.alignment.crop.side)
            assert b.result.alignment is not None
            assert b.result.alignment.side == b.alignment.crop.side


@pytest.fixture(scope="module")
def excerpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first ten seconds of the footage, its packets as they are."""
    path = tmp_path_factory.mktemp("real") / "excerpt.mp4"
    with av.open(str(FOOTAGE)) as whole, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is None or packet.dts * packet.time_base >= 10:
                break
            packet.stream = stream
            container.mux(packet)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not (FOOTAGE.exists() and LbpCascade.is_here()), reason="no footage, or no scikit-image")
def test_real_footage_from_end_to_end(excerpt: Path, tmp_path: Path, capsys: Captured) -> None:
    """The bar: as many frames at the same times, and a crop five times steadier than the detector's."""
    saved, out = tmp_path / "steady.npz", tmp_path / "out.mp4"
    with local_server("heads-128", threads=1) as server:
        assert run(server, "stream", excerpt, out, "--align", "face", "--latents", saved, "--json") == 0
    before, after = frames_of(excerpt), frames_of(out)
    report = json.loads(capsys.readouterr().out)
    assert report["frames_out"] == report["alignment"]["frames_aligned"] == len(before) >= 250
    assert report["psnr_db"] > 18  # a model of rendered heads
    assert [time for time, _ in after] == [time for time, _ in before]
    raw = Aligner(LbpCascade(), Steadiness(smooth=False))
    shaky = [raw.align(pixels, time).crop for time, pixels in before]
    steady = np.load(saved)["crop"][:, :2]
    assert jitter(np.array([(crop.x, crop.y) for crop in shaky])) > 5 * jitter(steady)
