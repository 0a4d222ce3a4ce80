"""The demo and the ten-line client, run as a user runs them, on a tiny model."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from legato_client import Image, png
from legato_client.local import local_server
from legato_client.media import Shot, open_sink, open_source
from tests.rpc.model import DIM, LAYERS, save_tiny_model
from tests.rpc.wire import RESOLUTION

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 26


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a clip of its own: 26 frames of 80 x 48 pixels at 20 frames a second."""
    folder = save_tiny_model(tmp_path_factory.mktemp("demo") / "tiny")
    with open_sink(folder / "clip.mp4", Fraction(20), Fraction(1, 20)) as sink:
        for index in range(FRAMES):
            pixels = np.full((48, 80, 3), 5 * index, np.uint8)
            sink.write(Image("raw", pixels.tobytes(), 80, 48), Shot(index, index, ""))
    return folder


def test_the_demo_writes_all_that_it_promises(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "examples/demo.py", "--model", str(model), "--steps", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "legato_frames_completed_total" in done.stdout
    assert "server stopped in good order" in done.stdout
    for name in ("reconstruction.mp4", "edited.mp4"):
        source = open_source(out / name, Fraction(25))
        frames = [np.asarray(pixels) for _, pixels in source.frames()]
        assert [frame.shape for frame in frames] == [(RESOLUTION, RESOLUTION, 3)] * FRAMES
        assert source.rate == 20
    sheet = cv2.imread(str(out / "comparison.png"))
    assert sheet is not None
    assert sheet.shape[1] > sheet.shape[0] - 30 >= 3 * RESOLUTION  # three rows, three columns and a margin for labels
    latents = np.load(out / "latents.npz")["latents"]
    assert (latents.shape, latents.dtype) == ((FRAMES, LAYERS, DIM), np.float32)
    report = json.loads((out / "report.json").read_text())
    assert (report["frames_in"], report["frames_out"], report["frames_replaced"]) == (FRAMES, FRAMES, 0)
    assert report["frame_age_ms"].keys() == {"p50", "p95", "p99"}
    assert {"encode", "synthesize"} <= report["stage_ms"].keys()
    assert report["steps"] == 1
    assert len(report["model_digest"]) == 64
    assert report["fps"] > 0
    assert report["psnr_db"] > 0
    assert report["commit"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "missing.mp4"], "missing.mp4 does not exist"),
        (["--edit", "charm=1"], "unknown direction 'charm'"),
        (["--model", "heads-9000", "--input", "IN"], "no model is named 'heads-9000'"),
    ],
)
def test_the_demo_says_what_keeps_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    demo = runpy.run_path(str(ROOT / "examples" / "demo.py"))
    given = [str(model / "clip.mp4") if part == "IN" else part for part in arguments]
    assert demo["main"](["--model", str(model), "--out", str(tmp_path), *given]) == 1
    assert message in capsys.readouterr().err


def test_the_ten_line_client_runs(model: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for index in range(3):
        (source / f"{index}.png").write_bytes(png.write(np.full((64, 64, 3), 80 * index, np.uint8)))
    with local_server(model) as server:
        command = [sys.executable, "examples/client.py", str(source), str(target), server.address]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in target.iterdir()) == ["0001.jpg", "0002.jpg", "0003.jpg"]
