"""`legato directions`: every method writes a file that serves and a picture, and says what was wrong with a wish."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from legato import cli
from legato.commands.serve import build_engine
from legato.config import EngineConfig
from legato.editing.directions import load_directions
from legato.models import load_generator
from legato.models.attributes import AttributeNetwork, AttributesConfig, save_attributes
from legato.models.files import read_header
from tests.rpc.model import DIM, LAYERS, save_tiny_model

SIDE = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("networks") / "attributes.safetensors"
    names = ("smile", "yaw", "beard")
    save_attributes(AttributeNetwork(AttributesConfig(names=names, width=2, features=4)), path, recipe={})
    return path


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Bright pictures and dark ones."""
    draw = np.random.default_rng(0)
    made = {}
    for name, level in (("with", 200), ("without", 40)):
        made[name] = tmp_path / name
        made[name].mkdir()
        for index in range(4):
            pixels = np.clip(draw.normal(level, 20, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(made[name] / f"{index}.png"), pixels)
    return made


def test_sefa_writes_a_file_that_serves_and_a_picture(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sefa.safetensors"
    assert (
        cli.main(["directions", "sefa", "--model", str(model), "--out", str(out), "--layers", "0-1,4", "--count", "3"])
        == 0
    )
    found = load_directions(out, generator_digest=load_generator(model).digest)
    assert found.names == ("sefa_0", "sefa_1", "sefa_2")
    moved = found.vector("sefa_0").abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == [0, 1, 4]
    assert read_header(out).recipe["layers"] == [0, 1, 4]
    picture = cv2.imread(str(tmp_path / "sefa.png"))
    assert picture is not None
    assert picture.shape[1] > 7 * SIDE
    assert "3 directions" in capsys.readouterr().out
    engine = build_engine(EngineConfig(model=str(model), directions=str(out), max_sessions=1, threads=1))
    assert [info.name for info in engine.directions] == list(found.names)


def test_ganspace_is_measured_where_a_network_is_given(model: Path, network: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "g.safetensors", tmp_path / "shown" / "g.png"
    arguments = ["--count", "2", "--samples", "300", "--network", str(network), "--sheet", str(picture)]
    assert cli.main(["directions", "ganspace", "--model", str(model), "--out", str(out), *arguments]) == 0
    found = load_directions(out)
    assert found.names == ("ganspace_0", "ganspace_1")
    info = found.info("ganspace_0")
    assert any(f"moves {name} by" in info.description for name in ("smile", "yaw", "beard"))
    assert info.response > 0
    assert read_header(out).recipe["samples"] == 300
    assert picture.exists()


def test_a_boundary_between_pictures(model: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    kinds = ["--name", "bright", "--positive", str(folders["with"]), "--negative", str(folders["without"])]
    image = ["--image", str(folders["with"] / "0.png")]
    assert cli.main(["directions", "boundary", "--model", str(model), "--out", str(out), *kinds, *image]) == 0
    assert load_directions(out).vector("bright").shape == (LAYERS, DIM)
    assert read_header(out).recipe["boundaries"]["bright"]["samples"] == 6


@pytest.mark.parametrize("method", ["boundary", "style-space"])
def test_a_network_labels_random_codes(method: str, model: Path, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "n.safetensors"
    labels = ["--network", str(network), "--attributes", "smile", "--samples", "120", "--count", "2"]
    labels += ["--condition", "yaw"] if method == "boundary" else []
    assert cli.main(["directions", method, "--model", str(model), "--out", str(out), *labels]) == 0
    found = load_directions(out)
    assert len(found.names) == (1 if method == "boundary" else 2)
    assert all(name.startswith("smile") for name in found.names)
    assert {found.info(name).space for name in found.names} == {"s" if method == "style-space" else "w+"}
    assert found.info(found.names[0]).response > 0
    assert read_header(out).recipe["method"] == method


def test_a_direction_that_keeps_to_a_region(model: Path, tmp_path: Path) -> None:
    out, mask = tmp_path / "r.safetensors", np.zeros((SIDE, SIDE), np.uint8)
    mask[16:40, 8:48] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    wanted = ["--edit", "smile=2", "--edit", "yaw=-1", "--mask", str(tmp_path / "mask.png"), "--samples", "2"]
    assert cli.main(["directions", "within", "--model", str(model), "--out", str(out), *wanted]) == 0
    engine = build_engine(EngineConfig(model=str(model), directions=str(out), max_sessions=1, threads=1))
    assert [(info.name, info.space) for info in engine.directions] == [("smile_within", "s"), ("yaw_within", "s")]
    assert "of the plain edit's change" in engine.directions[0].description


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sefa", "--name", "smile"], "sefa takes no labels"),
        (["sefa", "--layers", "0-99"], "has the layers 0 to 9"),
        (["sefa", "--layers", "low"], "as 0-3 or 0-1,4"),
        (["sefa", "--count", "999"], "has 16 dimensions"),
        (["boundary"], "boundary needs labels: --name NAME --positive PATH ... --negative PATH"),
        (["boundary", "--name", "x", "--positive", "a"], "between --positive and --negative"),
        (["style-space", "--attributes", "smile"], "give it with --network"),
        (["within", "--edit", "smile=1"], "within takes --edit NAME=STRENGTH and --mask FILE"),
        (["sefa", "--edit", "smile=1", "--mask", "m.png"], "and the others take neither"),
        (["sefa", "--space", "w+"], "--space belongs to style-space: sefa finds steps of W+"),
        (["boundary", "--network", "NETWORK", "--attributes", "hat"], "reads no hat; it reads smile, yaw, beard"),
        (["style-space", "--name", "x", "--positive", "nowhere"], "nowhere does not exist"),
        (["ganspace", "--samples", "3", "--count", "5"], "fewer than the 5 components"),
        (["boundary", "--network", "NETWORK", "--attributes", "smile", "--samples", "9"], "take more samples"),
    ],
)
def test_what_does_not_go_together_is_told(
    arguments: list[str], said: str, model: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(network) if word == "NETWORK" else word for word in arguments]
    out = tmp_path / "none.safetensors"
    assert cli.main(["directions", *given, "--model", str(model), "--out", str(out)]) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_the_file_and_the_picture_have_their_suffixes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in (["--out", "a.pt"], ["--out", "a.safetensors", "--sheet", "a.jpg"]):
        assert cli.main(["directions", "sefa", "--model", str(model), *target]) == 1
    told = capsys.readouterr().err
    assert ".safetensors" in told
    assert ".png" in told
