"""`legato train encoder` with a residual encoder or the in-domain objective: what it leaves, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import pytest
import torch

from legato import cli
from legato.models import Encoder, load_encoder, load_generator, load_residual_encoder, save_model
from legato.models.attributes import AttributeNetwork, AttributesConfig, save_attributes
from legato.models.files import read_header
from legato.models.generator import Generator
from tests.train.small import ENCODER_64, GENERATOR_64, checkpoint, pictures, write_shard

COMMON = ["--batch", "4", "--threads", "1", "--device", "cpu", "--precision", "float32"]
SIZES = ["--channel-base", "64", "--channel-max", "4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(Generator(GENERATOR_64), folder / "generator.safetensors", meta={})
    save_model(Encoder(ENCODER_64), folder / "encoder.safetensors", meta={})
    return folder


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("renders")
    write_shard(folder, "train-00000", 64)
    write_shard(folder, "eval-00000", 64, seed=1)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i, picture in enumerate(pictures(24, 64)):
        cv2.imwrite(str(folder / f"{i}.png"), picture.transpose(1, 2, 0))
    return folder


def encoder(model: Path, out: Path, *more: object) -> list[str]:
    return ["train", "encoder", "--generator", str(model), "--out", str(out), *COMMON, *map(str, more)]


def test_residual(model: Path, renders: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = encoder(model, out, "--residual", "--data", renders, "--runs", renders)
    assert cli.main([*command, "--images", "8"]) == 0
    assert {path.name for path in (out / "model").iterdir()} == {
        "generator.safetensors",
        "encoder.safetensors",
        "residual_encoder.safetensors",
        "directions.safetensors",
    }
    residual = load_residual_encoder(out / "model")
    assert residual.config == load_encoder(out / "model").config
    recipe = read_header(out / "model" / "residual_encoder.safetensors").recipe
    assert recipe["generator"] == load_generator(model).digest
    assert recipe["encoder"] == load_encoder(model).digest
    assert recipe["data"] == "512 images, 512 images of runs"
    assert {"psnr0_db", "psnr1_db", "run_psnr_db", "carried_psnr_db"} <= recipe.keys()
    assert cli.main([*command, "--images", "12"]) == 0  # more than were asked for at first
    assert checkpoint(out)["progress"] == (12, 3)


def test_in_domain(model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = encoder(model, out, "--data", images, *SIZES, "--objective", "in-domain", "--images", "8")
    assert cli.main(command) == 0
    assert read_header(out / "model" / "encoder.safetensors").recipe["recipe"] == "in-domain encoder"
    assert load_encoder(out / "model")(torch.zeros(1, 3, 64, 64)).isfinite().all()
    assert "discriminator" in checkpoint(out)
    assert cli.main([*command, "--adversarial", "0.1"]) == 1
    assert "adversarial was 0.08 and is now 0.1" in capsys.readouterr().err


def test_in_domain_by_an_attribute_network(model: Path, images: Path, tmp_path: Path) -> None:
    weights = tmp_path / "attributes.safetensors"
    save_attributes(AttributeNetwork(AttributesConfig(names=("smile",))), weights, recipe={})
    more = ["--perceptual", "attributes", "--perceptual-weights", weights, "--images", "4"]
    out = tmp_path / "run"
    assert cli.main(encoder(model, out, "--data", images, *SIZES, "--objective", "in-domain", *more)) == 0
    assert '"perceptual_weight": 0.8' in (out / "run.json").read_text()


def test_within_a_time(model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many images as the machine was measured to see; a second start keeps their number."""
    out = tmp_path / "run"
    command = encoder(model, out, "--data", images, "--hold-out", "last:4", *SIZES, "--within", "0.001")
    assert cli.main(command) == 0
    told = capsys.readouterr().err
    assert re.search(r"images a second here: [\d,]+ images fit into --within 0\.001", told)
    seen = checkpoint(out)["progress"][0]
    assert seen % 4 == 0
    assert json.loads((out / "run.json").read_text())["config"]["images"] == seen
    assert cli.main([*command, "--export-only"]) == 0
    assert "fit into" not in capsys.readouterr().err
    recipe = read_header(out / "model" / "encoder.safetensors").recipe
    assert recipe["data"] == "20 images and the generator's samples"


def test_goes_on_from_an_encoder(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert cli.main(encoder(model, out, "--init", model, "--images", "8")) == 0
    assert load_encoder(out / "model").config == ENCODER_64
    recipe = read_header(out / "model" / "encoder.safetensors").recipe
    assert recipe["init"] == load_encoder(model).digest
    assert recipe["data"] == "the generator's samples"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data", "IMAGES", "--perceptual", "attributes"], "--perceptual belongs to --objective in-domain"),
        (["--data", "IMAGES", "--perceptual-weight", "1"], "--perceptual-weight belongs to --objective in-domain"),
        (["--samples", "--objective", "in-domain"], "learns from real images: give --data FOLDER"),
        (["--data", "IMAGES", "--objective", "in-domain", "--perceptual", "vgg"], "no perceptual network is named"),
        (["--data", "IMAGES", "--runs", "RUNS"], "--runs belongs to --residual"),
        (["--data", "IMAGES", "--encoder", "heads-128"], "--encoder belongs to --residual"),
        (["--data", "IMAGES", "--residual"], "legato render --dataset FOLDER --runs --images N"),
        (["--samples", "--residual", "--runs", "RUNS"], "learns from --data FOLDER and --runs FOLDER"),
        (["--data", "IMAGES", "--residual", "--runs", "IMAGES"], "every four in a row show one moving head"),
        (["--data", "IMAGES", "--residual", "--runs", "RUNS", "--adversarial", "1"], "--residual has one objective"),
        (["--data", "IMAGES", "--residual", "--runs", "RUNS", "--channel-max", "4"], "has the sizes of the encoder"),
        (["--data", "IMAGES", "--residual", "--runs", "RUNS", "--within", "1"], "--within does not go with --residual"),
        (["--data", "IMAGES", "--samples"], "--samples 1 leaves no room for --data"),
        (["--within", "1", "--images", "8"], "--images says how many, --within how long"),
        (["--init", "heads-128", "--channel-max", "4"], "--channel-max does not go with --init"),
        (["--init", "heads-128"], "the encoder gives 12 layers of 256 from 128 pixels, the generator takes 10 of 16"),
        (
            ["--data", "IMAGES", "--residual", "--runs", "RUNS", "--encoder", "heads-128"],
            "the encoder gives 12 layers of 256 from 128 pixels, the generator takes 10 of 16 to 64 pixels",
        ),
    ],
)
def test_options_that_do_not_fit_together(
    model: Path,
    images: Path,
    renders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    told: str,
) -> None:
    given = [{"IMAGES": images, "RUNS": renders}.get(option, option) for option in options]
    assert cli.main(encoder(model, tmp_path / "run", *given)) == 1
    assert told in capsys.readouterr().err
