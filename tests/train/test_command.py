"""`legato train` from the command line: what it leaves behind, how it goes on, and what it says to wrong options."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch

from legato import cli
from legato.models import load_encoder, load_generator, save_model
from legato.models.files import read_header
from legato.models.generator import Generator
from tests.train.small import GENERATOR_64, checkpoint, pictures, same_bits, write_shard

TINY = ["--batch", "4", "--channel-base", "64", "--channel-max", "4", "--threads", "1", "--device", "cpu"]
TINY += ["--precision", "float32"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i, picture in enumerate(pictures(24, 24)):
        cv2.imwrite(str(folder / f"{i}.png"), picture.transpose(1, 2, 0))
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    save_model(Generator(GENERATOR_64), folder / "generator.safetensors", meta={})
    return folder


def gan(images: Path, out: Path, *more: str) -> list[str]:
    paths = ["--data", str(images), "--out", str(out), "--resolution", "16"]
    return ["train", "generator", "--recipe", "gan", *paths, *TINY, *more]


def test_gan_from_a_folder_of_images(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.main(gan(images, out, "--images", "8")) == 0
    found = {path.name for path in out.iterdir()}
    assert {"checkpoint.pt", "log.jsonl", "samples.png", "run.json", "model"} <= found
    shown = capsys.readouterr().err
    assert "8/8 images" in shown
    assert f"the model is in {out / 'model'}" in shown
    header = read_header(out / "model" / "generator.safetensors")
    assert header.config["resolution"] == 16
    assert header.recipe["recipe"] == "gan"
    assert header.recipe["images"] == 8
    assert {"commit", "hours", "data", "seed", "legato"} <= header.recipe.keys()
    loaded, state = load_generator(out / "model"), checkpoint(out)["average"]
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[name].half().float()), name

    # More images are asked for: it goes on; with another architecture it refuses, and tells what changed.
    assert cli.main(gan(images, out, "--images", "16")) == 0
    assert checkpoint(out)["progress"] == (16, 4)
    assert cli.main(gan(images, out, "--images", "16", "--seed", "5")) == 1
    assert "a training with other options: seed was 1 and is now 5" in capsys.readouterr().err


def test_killed_run_goes_on_by_the_same_command(images: Path, tmp_path: Path) -> None:
    """SIGKILL in another process, then to the end in this one: the bits of a run that nobody disturbed."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = ["--images", "80", "--checkpoint-seconds", "0"]
    with subprocess.Popen([sys.executable, "-m", "legato", *gan(images, killed, *options)]) as process:
        wait_for(lambda: lines(killed / "log.jsonl") >= 2, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = checkpoint(killed)["progress"][0]
    assert 0 < done < 80
    assert cli.main(gan(images, killed, *options)) == 0
    options[-1] = "1000"
    assert cli.main(gan(images, whole, *options)) == 0
    assert same_bits(checkpoint(killed), checkpoint(whole))


def test_interrupt_writes_a_checkpoint(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = gan(images, out, "--images", "1000000", "--checkpoint-seconds", "1000000")
    with subprocess.Popen([sys.executable, "-m", "legato", *command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "0/1000000 images" in process.stderr.readline()  # the progress of a training that runs
        process.send_signal(signal.SIGTERM)
        _, shown = process.communicate()
    assert process.returncode == 130
    assert "of 1,000,000 images; the same command goes on" in shown
    assert checkpoint(out)["progress"][0] > 0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, "the training ended early"
        time.sleep(0.02)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_encoder_from_samples_stands_beside_its_generator(generator: Path, tmp_path: Path) -> None:
    (generator / "directions.safetensors").write_bytes(b"travels along as it is")
    out = tmp_path / "run"
    command = [
        "train",
        "encoder",
        "--generator",
        str(generator),
        "--samples",
        "--out",
        str(out),
        *TINY,
        "--images",
        "8",
    ]
    assert cli.main(command) == 0
    model = out / "model"
    assert {path.name for path in model.iterdir()} == {
        "generator.safetensors",
        "encoder.safetensors",
        "directions.safetensors",
    }
    encoder = load_encoder(model)
    assert encoder.config.num_layers == load_generator(model).num_layers
    recipe = read_header(model / "encoder.safetensors").recipe
    assert recipe["generator"] == load_generator(generator).digest
    assert "psnr_db" in recipe
    (row,) = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert row["images"] == 8
    assert cli.main([*command, "--export-only"]) == 0


def test_minutes_stop_a_training_that_goes_on_later(images: Path, tmp_path: Path) -> None:
    command = gan(images, tmp_path / "run", "--images", "12")
    assert cli.main([*command, "--minutes", "0"]) == 0
    assert checkpoint(tmp_path / "run")["progress"] == (4, 1)
    assert not (tmp_path / "run" / "model").exists()
    assert cli.main([*command, "--export-only"]) == 0
    assert read_header(tmp_path / "run" / "model" / "generator.safetensors").recipe["images"] == 4
    assert cli.main(command) == 0
    assert checkpoint(tmp_path / "run")["progress"] == (12, 3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--batch", "0"], "argument --batch: a whole number of at least 1 is wanted; got '0'"),
        (["--images", "many"], "argument --images: a whole number of at least 1 is wanted; got 'many'"),
        (["--seed", "-1"], "argument --seed: a whole number from 0 to 2^31 - 1 is wanted; got '-1'"),
        (["--r1-gamma", "nan"], "argument --r1-gamma: a number of at least 0 is wanted; got 'nan'"),
        (["--recipe", "diffusion"], "argument --recipe: invalid choice: 'diffusion'"),
    ],
)
def test_options_that_make_no_sense(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(gan(images, tmp_path / "run", *options))
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--resolution", "48"], "no network of these sizes: resolution is a power of two of at least 8; got 48"),
        (["--channel-base", "8"], "no network of these sizes: channel_base is at least the resolution"),
        (["--device", "tpu"], "--device is cpu, cuda, cuda:N or auto; got 'tpu'"),
        (["--device", "cuda:99"], "--device cuda:99 asks for a GPU that torch does not find"),
        (["--weights-only"], "--weights-only belongs to --recipe joint"),
        (["--data", "nowhere"], "there is none of them at nowhere. Make renders with: legato render --dataset nowhere"),
        (["--recipe", "joint"], "no network of these sizes: resolution is a power of two of at least 32; got 16"),
        (["--recipe", "joint", "--resolution", "64", "--weights-only"], "--weights-only belongs to renders"),
        (["--hold-out", "last:24"], "--hold-out last:24 keeps 24 of the 24 images of"),
        (["--recipe", "joint", "--r1-gamma", "1"], "--r1-gamma belongs to --recipe gan"),
        (["--export-only"], "holds no checkpoint to export"),
    ],
)
def test_options_that_do_not_fit_together(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert cli.main(gan(images, tmp_path / "run", *options)) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("legato train: ")
    assert told in shown


def test_joint_wants_enough_renders_of_both_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    command = ["train", "generator", *paths, "--resolution", "64", *TINY]
    write_shard(tmp_path / "data", "train-00000", 64)
    assert cli.main(command) == 1
    assert "wants at least 1024 renders; " in capsys.readouterr().err
    write_shard(tmp_path / "data", "train-00001", 64)
    assert cli.main(command) == 1
    assert "holds no eval-*.npz" in capsys.readouterr().err


def test_out_that_cannot_be_written(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cli.main(gan(images, tmp_path / "file" / "run")) == 1
    assert f"--out {tmp_path / 'file' / 'run'} cannot be made: Not a directory" in capsys.readouterr().err
