"""`legato invert`: what it writes, what it says, and that nothing done is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from legato.offline import find, read
from legato.offline.codes import load_codes
from legato.offline.reading import Timing, read_image
from tests.offline.pictures import PLAIN, TIMING, legato, told, write_clip, write_folder


def invert(model: Path, *arguments: object) -> int:
    return legato("invert", *arguments, "--model", model, *PLAIN)


def seconds(timing: Timing | None) -> list[Fraction]:
    return [pts * timing.tick for pts in timing.pts] if timing is not None else []


def test_a_clip_comes_back_with_its_length_and_times(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = write_clip(model, tmp_path / "walk.mp4"), tmp_path / "out"
    assert invert(model, clip, "--steps", 3, "--edit", "smile=2", "--out", out) == 0
    table = capsys.readouterr().out
    assert "walk" in table
    assert "PSNR dB" in table
    shown = [read(find([out / "walk" / f"{name}.mp4"])[0], 64) for name in ("reconstruction", "edited")]
    assert [seconds(each.timing) for each in shown] == [seconds(TIMING)] * 2
    assert np.abs(shown[0].frames.astype(int) - shown[1].frames).mean() > 1
    codes = load_codes(out / "walk" / "latents.npz")
    assert codes.clip.latents.shape == (6, 10, 16)
    assert (codes.method, seconds(codes.timing), codes.kind) == ("consecutive:steps=3", seconds(TIMING), "clip")
    assert codes.history["pixel"].shape == (3,)
    assert codes.history["total"][-1] < codes.history["total"][0]
    report = json.loads((out / "walk" / "report.json").read_text())
    assert report["psnr_db"] > report["encoder_psnr_db"]
    assert report["passes_per_frame"] == 6
    assert report["edits"] == {"smile": 2.0}
    assert read_image(out / "walk" / "comparison.png").shape[0] == 22 + 4 * 128
    assert not (out / ".state").exists()
    summary = json.loads((out / "report.json").read_text())
    assert [each["name"] for each in summary["inputs"]] == ["walk"]


@pytest.mark.parametrize(
    "method", ["encoder", "w:steps=2", "in_domain:steps=2", "multi_code:steps=2,codes=2,resolution=8"]
)
def test_a_folder_comes_back_under_its_names(model: Path, tmp_path: Path, method: str) -> None:
    folder, out = write_folder(model, tmp_path / "walk", 3), tmp_path / "out"
    assert invert(model, folder, "--method", method, "--edit", "yaw=1", "--out", out) == 0
    for name in ("reconstruction", "edited"):
        assert sorted(path.name for path in (out / "walk" / name).iterdir()) == [
            "frame_10.png",
            "frame_8.png",
            "frame_9.png",
        ]
    codes = load_codes(out / "walk" / "latents.npz")
    assert codes.labels == ("frame_8", "frame_9", "frame_10")
    assert (codes.clip.composition is not None) == method.startswith("multi_code")


def test_frames_without_a_code_show_the_nearest_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = write_clip(model, tmp_path / "walk.mp4"), tmp_path / "out"
    method = "consecutive:policy=stride1_first,window=3,cover=no,steps=2"
    assert invert(model, clip, "--method", method, "--out", out) == 0
    assert "gives 2 of 6 frames no code; the nearest one is held" in told(capsys)
    assert load_codes(out / "walk" / "latents.npz").held == [0, 1, 2, 3, 3, 3]
    assert len(read(find([out / "walk" / "reconstruction.mp4"])[0], 64).frames) == 6


def test_one_image_for_consecutive_is_told_and_the_rest_is_done(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_folder(model, tmp_path / "walk", 3), tmp_path / "out"
    (tmp_path / "single").mkdir()
    os.link(folder / "frame_8.png", tmp_path / "single" / "photo.png")
    assert invert(model, tmp_path / "single", folder, "--steps", 2, "--out", out) == 1
    text = told(capsys)
    assert "single: not done: it is a single image, and consecutive inverts at least 2 together" in text
    assert "not done, or not whole: single" in text
    assert (out / "walk" / "report.json").exists()
    assert invert(model, folder / "frame_9.png", folder / "frame_8.png", "--steps", 2, "--out", out) == 0
    assert load_codes(out / "frame_9-frame_8" / "latents.npz").labels == ("frame_9", "frame_8")


def test_an_unreadable_file_in_the_middle_is_told_and_skipped(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_folder(model, tmp_path / "walk", 3), tmp_path / "out"
    whole = (folder / "frame_9.png").read_bytes()
    (folder / "frame_9.png").write_bytes(whole[: len(whole) // 2])
    assert invert(model, folder, "--steps", 2, "--out", out) == 1
    text = told(capsys)
    assert f"{folder / 'frame_9.png'} cannot be read: the PNG is cut off" in text
    assert "not done, or not whole: walk" in text
    assert load_codes(out / "walk" / "latents.npz").labels == ("frame_8", "frame_10")
    assert json.loads((out / "report.json").read_text())["not_done"]["walk"].startswith(str(folder / "frame_9.png"))


def test_what_is_done_is_not_done_again_and_not_overwritten(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_folder(model, tmp_path / "walk", 3), tmp_path / "out"
    path = out / "walk" / "latents.npz"
    command = (folder, "--method", "w_plus", "--out", out)
    assert invert(model, *command, "--steps", 2) == 0
    first = path.read_bytes()
    assert invert(model, *command, "--steps", 2, "--edit", "smile=1") == 0
    assert "walk: already inverted" in told(capsys)
    assert path.read_bytes() == first
    assert (out / "walk" / "edited").is_dir(), "an edit needs no second inversion"
    assert invert(model, *command, "--steps", 3) == 1
    text = told(capsys)
    assert f"{path} holds codes that another input, model or method gave (w_plus:steps=2)" in text
    assert "--restart" in text
    assert path.read_bytes() == first
    assert invert(model, *command, "--steps", 3, "--restart") == 0
    assert load_codes(path).method == "w_plus:steps=3"


def test_a_full_disk_is_told_and_what_was_done_is_kept(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_folder(model, tmp_path / "walk", 3), tmp_path / "out"
    command = (folder, "--method", "w_plus", "--steps", 2, "--out", out)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, unlimited[1]))  # codes fit, the comparison does not
    try:
        assert invert(model, *command) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    text = told(capsys)
    assert "comparison.png cannot be written: File too large" in text
    assert "Make room" in text
    assert not list(out.rglob("*partial*"))
    assert invert(model, *command) == 0
    assert "walk: already inverted" in told(capsys)
    assert (out / "walk" / "comparison.png").exists()


def begin(model: Path, folder: Path, out: Path, goes_on: bool) -> subprocess.Popen[str]:
    """A run in a process of its own, once it has gone some steps (further) on."""
    command = [
        sys.executable,
        "-m",
        "legato",
        "invert",
        folder,
        "--steps",
        "50",
        "--out",
        out,
        "--model",
        model,
        *PLAIN,
    ]
    state = out / ".state" / "walk.0.safetensors"
    before = state.stat().st_mtime_ns if goes_on else 0
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if state.exists() and state.stat().st_mtime_ns > before:
            return process
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f"no state was written: {process.communicate()[1]}")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_where_it_would_have(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_folder(model, tmp_path / "walk", 3), tmp_path / "out"
    interrupted = begin(model, folder, out, goes_on=False)
    interrupted.send_signal(signal.SIGINT)
    assert "interrupted; the same command goes on from here" in interrupted.communicate()[1]
    assert interrupted.returncode == 130
    killed = begin(model, folder, out, goes_on=True)
    killed.kill()
    assert "walk: goes on at step" in killed.communicate()[1]
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "walk").exists(), "killed on the way"

    command = (folder, "--steps", 50, "--out")
    assert invert(model, folder, "--steps", 49, "--out", out) == 1
    assert "holds the state of an unfinished run of 'walk' with other images, another model" in told(capsys)
    assert invert(model, *command, out) == 0
    assert "walk: goes on at step" in told(capsys)
    assert invert(model, *command, tmp_path / "whole") == 0
    assert "goes on" not in told(capsys)
    found, wanted = (load_codes(path / "walk" / "latents.npz") for path in (out, tmp_path / "whole"))
    np.testing.assert_array_equal(found.clip.latents.numpy(), wanted.clip.latents.numpy())
    np.testing.assert_array_equal(found.history["total"], wanted.history["total"])
    assert len(found.history["total"]) == 50


def test_pictures_unlike_the_model_s_own_are_told_by_its_own_figure(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(model, tmp_path / "walk", 2)
    figures = model / "figures.json"
    try:
        for known, warned in ((60.0, True), (1.0, False)):
            figures.write_text(json.dumps({"psnr_db": {"encoder": known}}))
            assert invert(model, folder, "--method", "encoder", "--out", tmp_path / f"{known:g}") == 0
            assert ("does not look like what" in told(capsys)) == warned
    finally:
        figures.unlink()


def test_the_report_is_json_for_machines(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(model, tmp_path / "walk", 2)
    assert invert(model, folder, "--method", "encoder", "--out", tmp_path / "out", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "wplus"), "no method is named 'wplus'; there are encoder, w, w_plus"),
        (("--method", "encoder", "--steps", "3"), "the method encoder has no --steps"),
        (("--method", "in_domain", "--start", "w_avg"), "--start belongs to w, w_plus and consecutive"),
        (("--method", "w", "--unordered"), "--unordered belongs to the method consecutive"),
        (("--edit", "frown=1"), "no direction is named 'frown'; this model has: smile, yaw"),
        (("--perceptual", "attribute"), "--perceptual-weights"),
        (("--perceptual-weights", "x.pth"), "belongs to a perceptual network"),
        (("--device", "cuda:99"), "--device cuda:99 asks for a GPU that torch does not find"),
        (("--device", "gpu"), "--device is cpu, cuda, cuda:N or auto; got 'gpu'"),
    ],
)
def test_options_that_cannot_be_are_told_before_any_work(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    folder = write_folder(model, tmp_path / "walk", 2)
    assert legato("invert", folder, "--model", model, "--out", tmp_path / "out", *options) == 1
    assert words in told(capsys)
    assert not (tmp_path / "out").exists()


def test_a_model_without_encoder_inverts_from_its_mean(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(model, tmp_path / "walk", 2)
    alone = tmp_path / "alone"
    alone.mkdir()
    os.link(model / "generator.safetensors", alone / "generator.safetensors")
    assert invert(alone, folder, "--method", "w_plus", "--start", "w_avg", "--steps", 2, "--out", tmp_path / "a") == 0
    assert " - " in capsys.readouterr().out
    assert invert(alone, folder, "--method", "in_domain", "--out", tmp_path / "b") == 1
    assert "this method starts from an encoder, and the model has none" in told(capsys)
