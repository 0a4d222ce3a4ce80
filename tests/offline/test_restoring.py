"""`legato restore` on a small model: what it writes, how it goes on, and what it says of bad input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from legato import cli
from legato.commands import restore as command
from legato.errors import InvalidImage
from legato.losses import psnr
from legato.offline import find
from legato.offline.codes import load_codes
from legato.offline.reading import read_image
from legato.offline.tasks import TASKS, read_mask, task_of
from legato.restoration import Denoise, SuperResolve
from legato.synthetic.dataset import from_uint8
from tests.pipeline.model import SIDE, small_model, stream
from tests.rpc.model import save_tiny_model
from tests.tolerances import CODEC_LEVELS, DRAWN_NOISE, ESTIMATED_NOISE, REPORTED, WRITTEN_DB

BRIEF = ("--steps", "4", "--samples", "40", "--threads", "1", "--precision", "float32", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three frames, 64 px, as the tiny model's generator makes them."""
    folder = tmp_path_factory.mktemp("in") / "heads"
    folder.mkdir()
    for number, frame in enumerate(stream(small_model(), 3)):
        write(folder / f"head{number}.png", frame.pixels)
    return folder


def write(path: Path, image: NDArray[Any]) -> Path:
    assert cv2.imwrite(str(path), image[:, :, ::-1] if image.ndim == 3 else image)
    return path


def mask(path: Path, lost: slice = slice(20, 40)) -> Path:
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[lost, lost] = 255
    return write(path, image)


def restore(model: Path, task: str, *arguments: object) -> int:
    return cli.main(["restore", task, *map(str, arguments), "--model", str(model), *BRIEF])


def test_the_command_names_every_task() -> None:
    assert list(TASKS) == ["colorize", "super-resolve", "inpaint", "denoise"]
    assert all(f"{task} " in command.EPILOG for task in TASKS)


def test_gray_pictures_get_colors_and_keep_their_luma(model: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    gray = tmp_path / "gray.png"
    write(gray, cv2.cvtColor(read_image(pictures / "head0.png"), cv2.COLOR_RGB2GRAY))
    assert restore(model, "colorize", gray, "--out", out) == 0
    made = read_image(out / "gray" / "restored.png")
    assert made.shape == (SIDE, SIDE, 3)
    assert (made[..., 0] != made[..., 2]).mean() > 0.5
    inside = ((made > 0) & (made < 255)).all(2)  # where no color had to be clamped
    luma = cv2.cvtColor(made, cv2.COLOR_RGB2GRAY).astype(int)
    known = cv2.cvtColor(read_image(gray), cv2.COLOR_RGB2GRAY)
    assert np.abs(luma - known)[inside].mean() < CODEC_LEVELS / 6
    report = json.loads((out / "report.json").read_text())
    assert report["not_done"] == {}
    assert "psnr_db" not in report["inputs"][0]
    assert load_codes(out / "gray" / "latents.npz").clip.composition is not None


def test_clean_pictures_are_degraded_first_and_compared(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert restore(model, "super-resolve", pictures, "--out", out, "--degrade", "--json") == 0
    report = json.loads(capsys.readouterr().out)["inputs"][0]
    assert report == json.loads((out / "heads" / "report.json").read_text())
    assert (report["frames"], report["factor"], report["codes"], report["steps"]) == (3, 4, 1, 4)
    truth, made = (
        torch.stack(
            [from_uint8(torch.from_numpy(read_image(folder / f"head{n}.png")).permute(2, 0, 1)) for n in range(3)]
        )
        for folder in (pictures, out / "heads" / "restored")
    )
    assert report["psnr_db"] == pytest.approx(float(psnr(made, truth).mean()), abs=WRITTEN_DB)
    bicubic = SuperResolve(4).baseline(SuperResolve(4).apply(truth))
    assert report["baseline_psnr_db"] == pytest.approx(float(psnr(bicubic, truth).mean()), abs=REPORTED)
    assert (out / "heads" / "comparison.png").exists()


def test_small_pictures_become_as_large_as_the_model(model: Path, pictures: Path, tmp_path: Path) -> None:
    small = write(tmp_path / "small.png", cv2.resize(read_image(pictures / "head0.png"), (16, 16)))
    assert restore(model, "super-resolve", small, "--out", tmp_path / "out") == 0
    assert read_image(tmp_path / "out" / "small" / "restored.png").shape == (SIDE, SIDE, 3)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["inputs"][0]["factor"] == 4


def test_white_is_filled_and_black_is_kept(model: Path, pictures: Path, tmp_path: Path) -> None:
    picture = read_image(pictures / "head0.png").copy()
    picture[20:40, 20:40] = 255
    spoiled, hole = write(tmp_path / "spoiled.png", picture), mask(tmp_path / "mask.png")
    assert restore(model, "inpaint", spoiled, "--mask", hole, "--out", tmp_path / "out") == 0
    made = read_image(tmp_path / "out" / "spoiled" / "restored.png")
    lost = read_image(hole)[..., 0] > 127
    assert np.array_equal(made[~lost], picture[~lost])
    assert (made[lost] < 255).any()


def test_noise_is_estimated_where_it_is_not_told(model: Path, pictures: Path) -> None:
    images = 0.1 + 0.2 * torch.randn(2, 3, SIDE, SIDE)
    sources = find([pictures])
    found, seen = task_of("denoise", sources, SIDE).seen(images)
    assert isinstance(found, Denoise)
    assert seen is images
    assert found.noise == pytest.approx(0.2, rel=ESTIMATED_NOISE)
    told, _ = task_of("denoise", sources, SIDE, noise=51.0).seen(images)
    assert isinstance(told, Denoise)
    assert told.noise == pytest.approx(0.4)
    _, noisy = task_of("denoise", sources, SIDE, degrade=True).seen(torch.zeros(2, 3, SIDE, SIDE))
    assert float(noisy.std()) == pytest.approx(25 / 127.5, rel=DRAWN_NOISE)


def test_lost_pixels_are_lost_and_filled(model: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert restore(model, "denoise", pictures / "head1.png", "--degrade", "--lost", ".8", "--roles", "--codes", 2,
                   "--out", out) == 0  # fmt: skip
    report = json.loads((out / "head1" / "report.json").read_text())
    assert report["codes"] == 2
    assert report["noise_levels"] is None
    assert sum(report["importances"][0]) == pytest.approx(1.0, abs=REPORTED)
    assert (out / "head1" / "roles.png").exists()


def test_a_killed_run_goes_on_and_a_whole_one_is_not_done_again(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = 0
    solving = sys.modules["legato.inversion.solve"]  # the package's name for it is its function
    step = solving._step

    def killed(*arguments: Any) -> None:
        nonlocal taken
        if taken == 14:
            raise KeyboardInterrupt
        taken += 1
        step(*arguments)

    wanted = ("colorize", pictures / "head0.png", "--steps", 16)
    run = [str(x) for x in ("restore", *wanted, "--model", model, *BRIEF[2:])]
    assert cli.main([*run, "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(solving, "_step", killed)
    assert cli.main([*run, "--out", str(tmp_path / "out")]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    taken = 0
    assert cli.main([*run, "--out", str(tmp_path / "out")]) == 0
    assert taken == 6, "ten of the steps were kept"
    whole, out = (read_image(tmp_path / name / "head0" / "restored.png") for name in ("whole", "out"))
    assert np.array_equal(whole, out)
    assert not list((tmp_path / "out" / ".state").glob("*"))
    capsys.readouterr()
    taken = 0
    assert cli.main([*run, "--out", str(tmp_path / "out")]) == 0
    assert (taken, "already done" in capsys.readouterr().err) == (0, True)
    assert cli.main([*run, "--out", str(tmp_path / "out"), "--codes", "2"]) == 1
    assert "--restart" in capsys.readouterr().err
    taken = -16
    assert cli.main([*run, "--out", str(tmp_path / "out"), "--codes", "2", "--restart"]) == 0


def test_a_file_that_is_no_picture_is_told_and_the_others_are_done(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    out = tmp_path / "out"
    assert restore(model, "colorize", bad, pictures / "head0.png", "--out", out) == 1
    assert "bad.png is no image" in capsys.readouterr().err
    report = json.loads((out / "report.json").read_text())
    assert list(report["not_done"]) == ["bad"]
    assert [row["name"] for row in report["inputs"]] == ["head0"]


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("inpaint", (), "needs --mask FILE"),
        ("inpaint", ("--mask", "none.png"), "none.png is no file"),
        ("colorize", ("--factor", "4"), "--factor belongs to super-resolve; colorize has none"),
        ("inpaint", ("--noise", "9"), "--noise belongs to denoise; inpaint has none"),
        ("denoise", ("--noise", "9", "--lost", ".5", "--degrade"), "one of --mask, --noise and --lost"),
        ("denoise", ("--lost", ".5"), "give it with --degrade"),
        ("super-resolve", (), r"goes from 32x32, 16x16, 8x8, 4x4 pixels to 64x64; .*head0.png is 64x64"),
        ("colorize", ("--resolution", "64"), r"one of \[4, 8, 16, 32\] pixels; got 64"),
    ],
)
def test_what_cannot_be_done_is_told(
    model: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    assert restore(model, task, pictures, *options, "--out", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert re.search(message, told)
    assert not (tmp_path / "out" / "heads" / "report.json").exists()


@pytest.mark.parametrize("level", [0, 255])
def test_masks_of_one_color_are_told(tmp_path: Path, level: int) -> None:
    path = write(tmp_path / "flat.png", np.full((8, 8), level, np.uint8))
    with pytest.raises(InvalidImage, match="all over"):
        read_mask(path, SIDE)
    assert read_mask(mask(tmp_path / "mask.png"), SIDE).sum() == SIDE * SIDE - 400
