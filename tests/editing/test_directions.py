"""Named directions: edits of a batch, and files that are tied to a generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from legato.editing.directions import Directions, load_directions, save_directions
from legato.errors import InvalidEdit, ModelFileError
from legato.models import load_generator
from legato.types import DirectionInfo, Edit
from tests.tolerances import GENERATOR_ROUNDING

DIGEST = "ab" * 32


@pytest.fixture
def directions() -> Directions:
    names = ["yaw", "smile", "mouth_open"]
    infos = {name: DirectionInfo(name, f"moves {name}", response=1.5, leakage=0.2) for name in names}
    return Directions({name: torch.randn(4, 6) for name in names}, infos, generator_digest=DIGEST)


def test_names_infos_vectors(directions: Directions) -> None:
    assert directions.names == ("mouth_open", "smile", "yaw")
    assert directions.info("smile").description == "moves smile"
    assert directions.vector("yaw").shape == (4, 6)


def test_edit_adds_strength_times_vector(directions: Directions) -> None:
    latents = torch.randn(3, 4, 6)
    before = latents.clone()
    edits = [[Edit("smile", 2.0)], [], [Edit("yaw", -1.0), Edit("smile", 0.5), Edit("yaw", -0.5)]]
    edited = directions.edit(latents, edits)
    smile, yaw = directions.vector("smile"), directions.vector("yaw")
    expected = latents + torch.stack([2 * smile, 0 * smile, 0.5 * smile - 1.5 * yaw])
    torch.testing.assert_close(edited, expected, **GENERATOR_ROUNDING)
    assert torch.equal(edited[1], latents[1])
    assert torch.equal(latents, before)


def test_a_sample_does_not_depend_on_its_company(directions: Directions) -> None:
    latents = torch.randn(4, 4, 6)
    edits = [[Edit("smile", 1.3), Edit("yaw", 0.7)], [Edit("mouth_open", -2.1)], [], [Edit("yaw", 0.1)]]
    together = directions.edit(latents, edits)
    for b in range(4):
        assert torch.equal(directions.edit(latents[b : b + 1], [edits[b][::-1]])[0], together[b])


def test_unknown_name(directions: Directions) -> None:
    with pytest.raises(InvalidEdit, match="no direction is named 'age'; this model has: mouth_open, smile, yaw"):
        directions.edit(torch.zeros(1, 4, 6), [[Edit("age", 1.0)]])
    with pytest.raises(InvalidEdit, match="'age'"):
        directions.vector("age")
    with pytest.raises(InvalidEdit, match="'age'"):
        directions.info("age")


def test_one_list_per_sample(directions: Directions) -> None:
    with pytest.raises(ValueError, match=r"latents \[2, 4, 6\], 1 lists"):
        directions.edit(torch.zeros(2, 4, 6), [[]])


def test_parts_that_do_not_fit() -> None:
    info = DirectionInfo("yaw", "", response=0.0, leakage=0.0)
    with pytest.raises(ValueError, match=r"infos of {}"):
        Directions({"yaw": torch.zeros(4, 6)}, {}, generator_digest=DIGEST)
    with pytest.raises(ValueError, match=r"directions are \[L, D\]"):
        Directions({"yaw": torch.zeros(6)}, {"yaw": info}, generator_digest=DIGEST)
    with pytest.raises(ValueError, match=r"directions are \[L, D\].*got \[1, 4, 6\]"):
        Directions({"yaw": torch.zeros(1, 4, 6)}, {"yaw": info}, generator_digest=DIGEST)
    vectors = {"yaw": torch.zeros(4, 6), "roll": torch.zeros(4, 7)}
    with pytest.raises(ValueError, match="of one size"):
        Directions(vectors, {"yaw": info, "roll": info}, generator_digest=DIGEST)


def test_file_round_trip(directions: Directions, tmp_path: Path) -> None:
    path = tmp_path / "directions.safetensors"
    save_directions(directions, path, provenance={"samples": 4096})
    loaded = load_directions(tmp_path, generator_digest=DIGEST)
    assert loaded.generator_digest == DIGEST
    assert loaded.names == directions.names
    for name in loaded.names:
        assert torch.equal(loaded.vector(name), directions.vector(name))
        assert loaded.info(name) == directions.info(name)
    again = tmp_path / "again.safetensors"
    save_directions(loaded, again, provenance={"samples": 4096})
    assert again.read_bytes() == path.read_bytes()


def test_directions_of_another_generator(directions: Directions, tmp_path: Path) -> None:
    path = tmp_path / "directions.safetensors"
    save_directions(directions, path, provenance={})
    with pytest.raises(
        ModelFileError, match=r"fitted on the generator abababab.*the one in use is cdcd.*fit them again"
    ):
        load_directions(path, generator_digest="cd" * 32)


def test_missing_file_and_wrong_kind(directions: Directions, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no model file at .*directions\.safetensors"):
        load_directions(tmp_path)
    path = tmp_path / "directions.safetensors"
    save_directions(directions, path, provenance={})
    with pytest.raises(ModelFileError, match="of kind 'directions'; 'generator' was wanted"):
        load_generator(path)
