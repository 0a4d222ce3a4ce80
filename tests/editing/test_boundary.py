"""Linear boundaries: recovered normals, optimality, sparsity, conditional projection, distances."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from legato.editing.boundary import Loss, extremes, fit_boundary, project
from legato.errors import InvalidInput
from legato.types import Edit
from tests.models.golden import golden_generator
from tests.tolerances import DIRECTION_ROUNDING, GENERATOR_ROUNDING, OPTIMALITY, SAMPLED_DEVIATION


def labeled(normal: Tensor, offset: float, count: int = 1500) -> tuple[Tensor, Tensor]:
    """Codes far from the origin, labeled by which side of a known hyperplane they lie on."""
    codes = 3 + 2 * torch.randn(count, *normal.shape)
    return codes, codes.flatten(1) @ normal.flatten() + offset > 0


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
@pytest.mark.parametrize("shape", [(8,), (3, 4)])
def test_a_known_hyperplane_is_found(loss: Loss, shape: tuple[int, ...]) -> None:
    normal = F.normalize(torch.randn(shape).flatten(), dim=0).view(shape)
    offset = -3.0 * float(normal.sum())
    found = fit_boundary(*labeled(normal, offset), loss=loss)
    assert found.normal.shape == shape
    assert float(found.normal.norm()) == pytest.approx(1.0)
    assert float((found.normal * normal).sum()) > 0.99
    assert found.accuracy > 0.95
    assert found.samples == 1050
    codes, labels = labeled(normal, offset)
    assert ((found.distance(codes) > 0) == labels).float().mean() > 0.95
    assert found.deviation == pytest.approx(2.0, rel=SAMPLED_DEVIATION)


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_the_fit_is_the_minimum(loss: Loss) -> None:
    """No direction of descent is left: autograd's gradient of the objective, written down again, is 0 there."""
    codes, labels = labeled(torch.tensor([1.0, 0.0, 0.0]), -3.0, 300)
    labels = labels ^ (torch.rand(300) < 0.1)
    found = fit_boundary(codes, labels, loss=loss, ridge=0.05, held_back=0.0)
    x = codes.double()
    scale = x.std(0).square().mean().sqrt()
    sign = labels.double() * 2 - 1
    plane = found.distance(codes).double() / scale  # proportional to the fitted w . x + b

    def objective(length: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
        margin = sign * (length * plane + x / scale @ turn + shift)
        losses = (1 - margin).clamp(min=0).square() if loss == "hinge" else F.softplus(-margin)
        weight = length * found.normal.double() + turn
        return losses.mean() + 0.05 / 2 * weight.square().sum()

    lengths = torch.linspace(0.1, 5, 2000).double()
    zero = torch.zeros(3).double()
    best = min(lengths, key=lambda length: float(objective(length, zero, torch.tensor(0.0).double())))
    leaves = (best.clone().requires_grad_(), zero.requires_grad_(), torch.tensor(0.0).double().requires_grad_())
    gradients = torch.autograd.grad(objective(*leaves), leaves)
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), **OPTIMALITY)


def test_sparsity_leaves_out_what_tells_little() -> None:
    normal = torch.zeros(20)
    normal[[3, 11]] = 0.5**0.5
    codes, labels = labeled(normal, -3 * float(normal.sum()))
    dense, sparse = fit_boundary(codes, labels), fit_boundary(codes, labels, sparsity=0.05)
    assert set(sparse.normal.nonzero().flatten().tolist()) == {3, 11}
    assert (dense.normal != 0).all()
    with pytest.raises(InvalidInput, match=r"sparsity 10\.0 leaves no coordinate"):
        fit_boundary(codes, labels, sparsity=10.0)


def test_extremes() -> None:
    scores = torch.tensor([0.3, -1.0, 5.0, 0.2, -2.0, 4.0])
    index, labels = extremes(scores, 1 / 3)
    assert sorted(index[labels].tolist()) == [2, 5]
    assert sorted(index[~labels].tolist()) == [1, 4]
    with pytest.raises(ValueError, match=r"at least 1 of 6 scores is wanted; got 0\.02"):
        extremes(scores)


def test_one_label_is_no_boundary() -> None:
    with pytest.raises(InvalidInput, match="all labels are alike"):
        fit_boundary(torch.randn(10, 3), torch.ones(10).bool())
    with pytest.raises(ValueError, match=r"labels \[N\]; got \[10, 3\], \[9\]"):
        fit_boundary(torch.randn(10, 3), torch.ones(9).bool())


def test_place_counts_from_the_boundary() -> None:
    normal = F.normalize(torch.randn(12), dim=0).view(3, 4)
    found = fit_boundary(*labeled(normal, -3 * float(normal.sum()), 200))
    codes = torch.randn(5, 3, 4)
    placed = found.place(codes, -1.5)
    torch.testing.assert_close(found.distance(placed), torch.full((5,), -1.5), **GENERATOR_ROUNDING)
    steps = (placed - codes).flatten(1)
    assert (F.cosine_similarity(steps, found.normal.flatten()[None]).abs() > 0.999).all()


def test_projection_of_one_condition_is_the_closed_form() -> None:
    primal, condition = (F.normalize(torch.randn(12), dim=0) for _ in range(2))
    expected = F.normalize(primal - (primal @ condition) * condition, dim=0)
    torch.testing.assert_close(project(primal, [3 * condition]), expected, **DIRECTION_ROUNDING)
    torch.testing.assert_close(project(primal, []), primal, **DIRECTION_ROUNDING)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_projection_is_orthogonal_to_conditions_at_any_angle(count: int) -> None:
    primal = torch.randn(4, 3)
    conditions = [torch.randn(4, 3) for _ in range(count)]
    conditions.append(conditions[0] + conditions[1])  # adds nothing
    found = project(primal, conditions)
    assert found.shape == (4, 3)
    against = torch.stack([(found * c).sum() for c in conditions])
    torch.testing.assert_close(against, torch.zeros(count + 1), **GENERATOR_ROUNDING)
    assert float((found * primal).sum()) > 0
    basis = torch.linalg.qr(torch.stack([c.flatten() for c in conditions[:-1]]).T).Q
    rest = primal.flatten() - basis @ (basis.T @ primal.flatten())
    torch.testing.assert_close(found.flatten(), F.normalize(rest, dim=0), **GENERATOR_ROUNDING)


def test_nothing_left_of_a_direction_among_its_conditions() -> None:
    one, other = torch.randn(6), torch.randn(6)
    with pytest.raises(InvalidInput, match="nothing is left"):
        project(one + other, [one, other])


def test_directions_are_one_sigma_long() -> None:
    generator = golden_generator()
    normal = F.normalize(torch.randn(10), dim=0)
    found = fit_boundary(*labeled(normal, -3 * float(normal.sum()), 200))
    directions = found.directions("smile", generator, layers=[0, 1])
    moved = directions.edit(torch.zeros(1, 6, 10), [[Edit("smile", 1.0)]])[0]
    torch.testing.assert_close(moved[0], found.deviation * found.normal, **GENERATOR_ROUNDING)
    assert moved[2:].abs().max() == 0
    assert found.provenance["accuracy"] == found.accuracy
    assert "held-out accuracy" in directions.info("smile").description
