"""Named directions: edits of a batch, and files that are tied to a generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from legato.editing.directions import Directions, load_directions, save_directions
from legato.editing.style_space import split_styles
from legato.errors import InvalidEdit, ModelFileError
from legato.models import Generator, load_generator
from legato.types import DirectionInfo, Edit
from tests.models.golden import golden_generator
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


def mixed(generator: Generator) -> Directions:
    """lift of W+, and mouth, three channels of S."""
    width = sum(layer.shape[1] for layer in generator.styles(generator.map(torch.zeros(1, 12))))
    mouth = torch.zeros(width)
    mouth[[3, 20, width - 1]] = torch.tensor([2.0, -1.0, 0.5])
    lift = torch.randn(generator.num_layers, generator.config.w_dim)
    infos = {"lift": DirectionInfo("lift", "", 0.0, 0.0), "mouth": DirectionInfo("mouth", "", 0.0, 0.0, space="s")}
    return Directions({"lift": lift, "mouth": mouth}, infos, generator_digest=DIGEST)


def test_steps_of_both_spaces_mix_and_leave_others_alone() -> None:
    generator = golden_generator()
    directions, latents = mixed(generator), generator.map(torch.randn(4, 12))
    before = latents.clone()
    edits = [
        [],
        [Edit("mouth", 2.0), Edit("lift", -0.5), Edit("mouth", 1.0)],
        [Edit("lift", 1.0)],
        [Edit("mouth", 1.0)],
    ]
    found = directions.images(generator, latents, edits)
    codes = directions.edit(latents, [[e for e in wanted if e.direction == "lift"] for wanted in edits])
    styles = generator.styles(codes)
    step = torch.stack([torch.zeros(len(directions.style_step("mouth")))] * 4)
    step[1], step[3] = 3 * directions.style_step("mouth"), directions.style_step("mouth")
    moved = [layer + part for layer, part in zip(styles, split_styles(generator, step), strict=True)]
    torch.testing.assert_close(found, generator.synthesize(moved), **GENERATOR_ROUNDING)
    assert torch.equal(latents, before)
    plain = generator(codes)
    for row in (0, 2):
        assert torch.equal(found[row], plain[row]), "bit for bit, whatever others in the batch ask for"
    assert not torch.equal(found[1], plain[1])


def test_a_generator_can_carry_the_steps_of_s() -> None:
    generator = golden_generator()
    directions, latents = mixed(generator), generator.map(torch.randn(2, 12))
    edits = [Edit("mouth", 1.5), Edit("lift", 1.0)]
    expected = directions.images(generator, latents, [edits, edits])
    moved = directions.move(latents, [edits, edits])
    restyled = directions.restyled(generator, edits)
    torch.testing.assert_close(restyled(moved), expected, **GENERATOR_ROUNDING)
    handed = restyled.head(restyled.styles(moved), 8)
    torch.testing.assert_close(restyled.tail(handed, restyled.styles(moved), 8), expected, **GENERATOR_ROUNDING)
    assert directions.restyled(generator, edits[1:]) is generator


def test_a_step_of_s_is_none_of_w_plus(tmp_path: Path) -> None:
    generator = golden_generator()
    directions = mixed(generator)
    told = "'mouth' is a step of S, the style space, and codes move along W\\+"
    with pytest.raises(InvalidEdit, match=told):
        directions.vector("mouth")
    with pytest.raises(InvalidEdit, match=told):
        directions.edit(torch.zeros(1, generator.num_layers, 12), [[Edit("mouth", 1.0)]])
    with pytest.raises(InvalidEdit, match="'lift' is a step of W\\+; one of S"):
        directions.style_step("lift")
    path = tmp_path / "directions.safetensors"
    save_directions(directions, path, provenance={})
    loaded = load_directions(path, generator_digest=DIGEST)
    assert {name: loaded.info(name).space for name in loaded.names} == {"lift": "w+", "mouth": "s"}
    assert torch.equal(loaded.style_step("mouth"), directions.style_step("mouth"))
