"""The curvature's coordinates: orthogonal, inverse to each other, sharpest where the generator is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from legato.errors import ModelFileError
from legato.models import Curvature, CurvatureConfig, load_curvature, save_model
from legato.models.refiners import load_refiners
from tests.pipeline.model import small_model
from tests.tolerances import ROTATION_FLOAT32, STORED_HALF

LAYERS, DIM = 3, 8


@pytest.fixture
def matrix() -> Tensor:
    root = torch.randn(LAYERS * DIM, LAYERS * DIM, generator=torch.Generator().manual_seed(0))
    return root @ torch.logspace(-3, 0, LAYERS * DIM).diag() @ root.T


@pytest.mark.parametrize("joint", [0, 3, DIM])
def test_moves_and_coordinates_are_inverse_rotations(matrix: Tensor, joint: int) -> None:
    made = Curvature.of(matrix, CurvatureConfig(LAYERS, DIM, joint))
    made.spread.uniform_(0.5, 2.0)
    coordinates = torch.randn(5, LAYERS, DIM)
    moves = made.moves(coordinates)
    torch.testing.assert_close(made.coordinates(moves), coordinates, **ROTATION_FLOAT32)
    length = (coordinates * made.spread).square().sum((1, 2))
    torch.testing.assert_close(moves.square().sum((1, 2)), length, **ROTATION_FLOAT32)


def test_places_are_apart_as_the_matrix_says(matrix: Tensor) -> None:
    """With all eigenvectors turned across layers the basis is that of the whole matrix, and the distance exact."""
    whole = Curvature.of(matrix, CurvatureConfig(LAYERS, DIM, DIM))
    a, b = torch.randn(2, 4, LAYERS, DIM)
    exact = torch.einsum("bi,ij,bj->b", (a - b).flatten(1), matrix, (a - b).flatten(1))
    torch.testing.assert_close((whole.place(a) - whole.place(b)).square().sum(1), exact, **ROTATION_FLOAT32)
    torch.testing.assert_close(whole.sharpness.sum(), matrix.trace(), **ROTATION_FLOAT32)


def test_what_is_joined_across_layers_is_more_diagonal(matrix: Tensor) -> None:
    def off_diagonal(joint: int) -> float:
        made = Curvature.of(matrix, CurvatureConfig(LAYERS, DIM, joint))
        basis = made.moves(torch.eye(LAYERS * DIM).view(-1, LAYERS, DIM)).flatten(1)
        turned = basis @ matrix @ basis.T
        return float((turned - turned.diagonal().diag()).norm())

    assert off_diagonal(DIM) < 1e-3 < off_diagonal(4) < off_diagonal(0)


def test_as_built_it_is_the_identity_and_is_not_measured() -> None:
    built = Curvature(CurvatureConfig(LAYERS, DIM, 2))
    coordinates = torch.randn(2, LAYERS, DIM)
    torch.testing.assert_close(built.moves(coordinates), coordinates * built.spread, **ROTATION_FLOAT32)
    assert not built.measured


def test_files_come_back_and_belong_to_their_model(tmp_path: Path) -> None:
    model = small_model()
    generator, encoder = model.generator, model.encoder
    save_model(generator, tmp_path / "generator.safetensors", meta={})
    save_model(encoder, tmp_path / "encoder.safetensors", meta={})
    generator.digest, encoder.digest = "g" * 64, "e" * 64
    assert load_refiners(tmp_path, generator, encoder).told == {"residual_encoder": "none", "curvature": "none"}
    made = Curvature(CurvatureConfig(generator.num_layers, generator.config.w_dim, 4))
    path = tmp_path / "curvature.safetensors"
    save_model(made, path, meta={"generator": "g" * 64, "encoder": "e" * 64})
    found = load_refiners(tmp_path, generator, encoder).curvature
    assert found is not None
    assert found.measured
    torch.testing.assert_close(found.spread, made.spread, **STORED_HALF)
    assert torch.equal(load_curvature(tmp_path).within, made.within)
    encoder.digest = "f" * 64
    with pytest.raises(ModelFileError, match="made for the encoder eeee"):
        load_refiners(tmp_path, generator, encoder)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="joint"):
        CurvatureConfig(2, 8, 9)
    with pytest.raises(ValueError, match=r"\[24, 24\]"):
        Curvature.of(torch.eye(5), CurvatureConfig(LAYERS, DIM, 2))
