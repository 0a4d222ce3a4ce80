"""The batched style affines against each layer's own."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from legato.models.affines import StyleAffines
from legato.models.layers import EqualLinear
from tests.tolerances import COMPILED, EXACT, GENERATOR_ROUNDING

WIDTHS, INDICES = (8, 5, 8, 5, 3), (0, 1, 1, 2, 3)


def make() -> tuple[list[EqualLinear], StyleAffines]:
    affines = [EqualLinear(6, width, bias_init=1.0, gain=0.5).requires_grad_(False).eval() for width in WIDTHS]
    return affines, StyleAffines(affines, INDICES)


def one_by_one(affines: list[EqualLinear], latents: Tensor) -> list[Tensor]:
    return [affine(latents[:, index]) for affine, index in zip(affines, INDICES, strict=True)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **COMPILED)


def test_each_layer_has_its_own() -> None:
    affines, together = make()
    for batch in (0, 1, 3):
        latents = torch.randn(batch, 4, 6)
        assert_same(together(latents), one_by_one(affines, latents))


def test_gradients() -> None:
    affines, together = make()
    latents = torch.randn(2, 4, 6, requires_grad=True)
    weights = [torch.randn(2, width) for width in WIDTHS]
    (found,) = torch.autograd.grad(together(latents), latents, weights)
    (expected,) = torch.autograd.grad(one_by_one(affines, latents), latents, weights)
    torch.testing.assert_close(found, expected, **GENERATOR_ROUNDING)


def test_kept_weights_follow_the_layers() -> None:
    affines, together = make()
    latents = torch.randn(2, 4, 6)
    with torch.inference_mode():
        before = together(latents)
    affines[2].weight.mul_(2.0)
    affines[4].bias.add_(1.0)
    after = together(latents)
    assert_same(after, one_by_one(affines, latents))
    torch.testing.assert_close(after[1], before[1], **EXACT)
    for affine in affines:
        affine.double()
    assert_same(together(latents.double()), one_by_one(affines, latents.double()))


def test_weights_that_train_get_gradients() -> None:
    affines, together = make()
    affines[3].requires_grad_(True)
    sum(style.sum() for style in together(torch.randn(2, 4, 6))).backward()  # type: ignore[union-attr]
    assert affines[3].weight.grad is not None
    assert affines[3].weight.grad.any()


def test_a_copy_has_layers_of_its_own() -> None:
    module = torch.nn.ModuleList(make()[0])
    module.together = StyleAffines(list(module), INDICES)  # type: ignore[assignment, arg-type]
    latents = torch.randn(1, 4, 6)
    expected = module.together(latents)  # type: ignore[operator]
    other = copy.deepcopy(module)
    for affine in module:
        affine.weight.zero_()  # type: ignore[operator]
    assert_same(other.together(latents), expected)  # type: ignore[operator]
