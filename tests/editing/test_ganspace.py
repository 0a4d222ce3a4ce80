"""Incremental PCA against the PCA of all data, and directions in sigmas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from legato.editing.ganspace import IncrementalPCA, ganspace
from legato.editing.population import deviations_along, sample_w
from legato.types import Edit
from tests.models.golden import golden_generator
from tests.tolerances import DIRECTION_ROUNDING, GENERATOR_ROUNDING


def data(rank: int) -> Tensor:
    """[600, 12] of some rank, off the origin, with axes of falling length."""
    axes = torch.linalg.qr(torch.randn(12, rank)).Q.T
    x: Tensor = torch.randn(600, rank) * torch.arange(rank, 0, -1) @ axes + 5 * torch.randn(12)
    return x


def exact(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(torch.cov(x.double().T))
    return values.flip(0)[:count], vectors.flip(1).T[:count]


@pytest.mark.parametrize("sizes", [[600], [5, 95, 1, 499], [300, 300]])
def test_batches_give_the_pca_of_all_data(sizes: list[int]) -> None:
    x = data(4)
    pca = IncrementalPCA(5)
    for batch in x.split(sizes):
        pca.add(batch)
    variances, vectors = exact(x, 4)
    torch.testing.assert_close(pca.mean, x.double().mean(0), **DIRECTION_ROUNDING)
    torch.testing.assert_close(pca.variances[:4], variances, **DIRECTION_ROUNDING)
    torch.testing.assert_close((pca.vectors[:4] * vectors).sum(1).abs(), torch.ones(4).double(), **DIRECTION_ROUNDING)
    assert pca.seen == 600


def test_full_rank_data_keeps_its_strongest_axes() -> None:
    x = data(4) + 0.05 * torch.randn(600, 12)
    pca = IncrementalPCA(4)
    for batch in x.split(50):
        pca.add(batch)
    _, vectors = exact(x, 4)
    assert ((pca.vectors * vectors).sum(1).abs() > 0.99).all()


def test_batches_that_do_not_fit() -> None:
    pca = IncrementalPCA(4)
    with pytest.raises(ValueError, match=r"4 components need so many rows and columns; got \[3, 12\]"):
        pca.add(torch.randn(3, 12))
    pca.add(torch.randn(20, 12))
    with pytest.raises(ValueError, match=r"got \[5, 11\] after D = 12"):
        pca.add(torch.randn(5, 11))
    with pytest.raises(ValueError, match="at least 1 component"):
        IncrementalPCA(0)


def test_directions_of_a_generator_are_in_sigmas() -> None:
    generator = golden_generator()
    seen: list[int] = []
    found = ganspace(generator, components=3, samples=5000, on_batch=seen.append)
    assert seen == [2000, 4000, 5000]
    w = torch.cat(list(sample_w(generator, 5000)))
    _, vectors = exact(w, 3)
    assert ((found.vectors.double() * vectors).sum(1).abs() > 0.99).all()
    assert (found.deviations.diff() <= 0).all()
    assert found.provenance["samples"] == 5000
    assert found.provenance["sigmas"] == found.deviations.tolist()
    directions = found.directions(generator, layers=[1])
    moved = directions.edit(torch.zeros(1, 6, 10), [[Edit("ganspace_1", -3.0)]])[0]
    torch.testing.assert_close(moved[1], -3 * found.deviations[1] * found.vectors[1], **GENERATOR_ROUNDING)
    assert moved[0].abs().max() == 0


def test_place_replaces_the_codes_own_coordinate() -> None:
    generator = golden_generator()
    found = ganspace(generator, components=2, samples=2000, fresh=1000)
    placed = found.place(torch.randn(4, 6, 10), 1, 1.5, layers=[0, 2])
    along = (placed - found.mean) @ found.vectors[1] / found.deviations[1]
    torch.testing.assert_close(along[:, [0, 2]], torch.full((4, 2), 1.5), **GENERATOR_ROUNDING)
    assert (along[:, [1, 3, 4, 5]] - 1.5).abs().max() > 0.1


def test_same_seed_same_population() -> None:
    generator = golden_generator()
    one, again = (torch.cat(list(sample_w(generator, 30, seed=3, batch=8))) for _ in range(2))
    assert torch.equal(one, again)
    assert one.shape == (30, 10)
    axis = torch.eye(10)[:2]
    torch.testing.assert_close(
        deviations_along(generator, axis, count=500),
        torch.cat(list(sample_w(generator, 500, seed=1)))[:, :2].std(0),
        **GENERATOR_ROUNDING,
    )
