"""`legato tune` from the command line: what it writes, what it brings, and what takes it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from legato import cli
from legato.models import load_generator
from legato.models.delta import load_delta
from tests.train.small import pictures

PLAIN = ["--device", "cpu", "--threads", "1", "--precision", "float32"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, picture in enumerate(pictures(5, 64)):
        cv2.imwrite(str(folder / f"{i}.png"), picture.transpose(1, 2, 0)[:, :, ::-1])
    return folder


def tune(images: Path, model: Path, out: Path, *more: str) -> list[str]:
    command = ["tune", str(images), "--model", str(model), "--out", str(out), *PLAIN]
    return [*command, "--steps", "12", "--batch", "2", "--rate", "0.02", "--json", *more]


def test_a_delta_and_what_takes_it(
    images: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    delta = tmp_path / "me.safetensors"
    assert cli.main(tune(images, model, delta, "--every", "2")) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], report["tuned_on"], report["bytes"]) == (5, 3, delta.stat().st_size)
    assert report["psnr_db"] > report["psnr_db_before"] + 1
    assert {"others_psnr_db", "others_psnr_db_before"} <= report.keys()
    assert load_delta(delta, generator_digest=load_generator(model).digest).digest == report["digest"]

    def invert(name: str, *more: str) -> float:
        command = ["invert", str(images / "0.png"), "--model", str(model), "--method", "encoder", *PLAIN]
        assert cli.main([*command, "--out", str(tmp_path / name), "--json", *more]) == 0
        found: float = json.loads(capsys.readouterr().out)["inputs"][0]["psnr_db"]
        return found

    assert invert("with", "--delta", str(delta)) > invert("without") + 1
    edit = ["edit", str(images / "0.png"), "--model", str(model), "--delta", str(delta), "--method", "encoder", *PLAIN]
    assert cli.main([*edit, "--edit", "smile=1", "--out", str(tmp_path / "edited")]) == 0  # directions hold on


def test_it_goes_on_and_refuses_other_pictures(
    images: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    delta = tmp_path / "me.safetensors"
    assert cli.main(tune(images, model, delta)) == 0
    first = delta.read_bytes()
    assert cli.main(tune(images, model, delta)) == 0  # nothing is left to do
    assert len(delta.read_bytes()) == len(first)
    capsys.readouterr()
    assert cli.main(tune(images / "0.png", model, delta)) == 1
    assert "a training with other options: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--layers", "8-10"], "--layers: layers are among 0 ... 9"),
        (["--method", "multi_code:codes=2,steps=1"], "gives more than codes, and a pivot is a code"),
        (["--delta", "x.safetensors"], "leave out --delta"),
        (["--out", "delta.bin"], "a delta is written as .safetensors"),
        (["--frames", "9:"], "none of its frames are those that --frames names"),
    ],
)
def test_options_that_do_not_go_together(
    images: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert cli.main(tune(images, model, tmp_path / "me.safetensors", *options)) == 1
    assert told in capsys.readouterr().err
