"""Closed-form factorization: known weights, which layers, stable signs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from legato.editing.directions import load_directions, save_directions
from legato.editing.sefa import sefa, style_weights
from legato.models import Generator
from legato.models.files import read_header
from legato.types import Edit
from tests.models.golden import golden_generator
from tests.tolerances import GENERATOR_ROUNDING, SAMPLED_DEVIATION

DIM, LAYERS = 10, 6


def with_axis(axis: Tensor) -> Generator:
    """A generator whose affines look at `axis` most, with rows of very different lengths."""
    generator = golden_generator()
    for name, weight in generator.named_parameters():
        if name.endswith("affine.weight"):
            noise = 0.2 * torch.randn(weight.shape)
            weight.copy_((axis + noise) * torch.exp(3 * torch.randn(len(weight), 1)))
    return generator


def test_finds_what_the_affines_look_at_whatever_their_lengths() -> None:
    axis = F.normalize(torch.randn(DIM), dim=0)
    found = sefa(with_axis(axis), count=3)
    assert float(found.vectors[0] @ axis) ** 2 > 0.95
    assert (found.values.diff() <= 0).all()
    assert found.layers == tuple(range(LAYERS))


def test_is_the_eigenvectors_of_normalized_rows() -> None:
    generator = golden_generator()
    found = sefa(generator, layers=[2, 1], count=DIM)
    rows = torch.cat(
        [generator.synthesis.block(8).conv0.affine.weight, generator.synthesis.block(8).conv1.affine.weight]
    )
    rows = rows / rows.norm(dim=1, keepdim=True)
    changed = (found.vectors @ rows.T).square().sum(1)  # of the styles, for a unit step along each
    torch.testing.assert_close(changed, found.values, **GENERATOR_ROUNDING)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(DIM), **GENERATOR_ROUNDING)
    largest = found.vectors.abs().argmax(1)
    assert (found.vectors[range(DIM), largest] > 0).all()
    assert found.layers == (1, 2)


def test_last_layer_is_the_last_to_rgb() -> None:
    generator = golden_generator()
    assert torch.equal(style_weights(generator, [5]), generator.synthesis.block(16).torgb.affine.weight)
    assert torch.equal(style_weights(generator, [0]), generator.synthesis.block(4).conv1.affine.weight)
    convs = [generator.synthesis.block(r).layers[:-1] for r in (4, 8, 16)]
    rows = sum(layer.affine.weight.shape[0] for block in convs for layer in block)
    assert style_weights(generator).shape == (rows + generator.synthesis.block(16).torgb.affine.weight.shape[0], DIM)


def test_directions_are_saved_with_where_they_come_from(tmp_path: Path) -> None:
    generator = golden_generator()
    generator.digest = "ab" * 32
    found = sefa(generator, layers=[3, 4], count=2)
    save_directions(found.directions(generator), tmp_path / "directions.safetensors", provenance=found.provenance)
    loaded = load_directions(tmp_path, generator_digest=generator.digest)
    assert torch.equal(loaded.vector("sefa_1"), found.directions(generator).vector("sefa_1"))
    recipe = read_header(tmp_path / "directions.safetensors").recipe
    assert recipe["method"] == "sefa"
    assert recipe["layers"] == [3, 4]


def test_directions_move_their_layers_one_sigma() -> None:
    generator = golden_generator()
    found = sefa(generator, layers=[3, 4], count=2)
    directions = found.directions(generator)
    assert directions.names == ("sefa_0", "sefa_1")
    moved = directions.edit(torch.zeros(1, LAYERS, DIM), [[Edit("sefa_0", 2.0)]])[0]
    assert moved[[0, 1, 2, 5]].abs().max() == 0
    z = torch.randn(20000, generator.config.z_dim)
    sigma = (generator.mapping(z) @ found.vectors[0]).std()
    assert float(moved[3].norm()) == pytest.approx(2 * float(sigma), rel=SAMPLED_DEVIATION)
    assert "layers [3, 4]" in directions.info("sefa_0").description


def test_counts_and_layers_that_are_not_there() -> None:
    generator = golden_generator()
    with pytest.raises(ValueError, match="1 to so many directions; got 11"):
        sefa(generator, count=11)
    with pytest.raises(ValueError, match=r"layers are among 0 \.\.\. 5, at least one; got \[6\]"):
        sefa(generator, layers=[6])
    with pytest.raises(ValueError, match=r"got \[\]"):
        sefa(generator, layers=[])
