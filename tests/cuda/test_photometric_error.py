"""The CUDA kernels of photometric_error against the reference in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from legato.ops.photometric_error import PENALTIES, Penalty, photometric_error_reference
from tests.cuda.conftest import Backend
from tests.cuda.test_flow_warp import DTYPES, make, packed
from tests.ops.compare import assert_as_good, to_double
from tests.tolerances import EXACT

SHAPES = [(2, 3, 9, 33), (1, 4, 17, 40), (3, 1, 7, 2), (1, 2, 70, 70), (2, 5, 1, 1)]


def reference(values: dict[str, Any], grad_error: Tensor, penalty: Penalty, boundaries: bool = False) -> list[Tensor]:
    """error, warped, and the gradient of the error to the warped image, by way of the target's."""
    target = values["target"]
    leaf = target.clone().requires_grad_()
    error, warped, _ = photometric_error_reference(
        **{**values, "target": leaf}, penalty=penalty, boundaries=boundaries, epsilon=0.1
    )
    (grad,) = torch.autograd.grad(error, leaf, grad_error.to(error.dtype))
    return [error.detach(), warped.detach(), -grad]


def with_target(values: dict[str, Any]) -> dict[str, Any]:
    image = values["image"]
    return {"image": image, "target": torch.randn(image.shape).to(image.dtype), **values}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_as_good_as_the_reference(
    backend: Backend, shape: tuple[int, ...], dtype: torch.dtype, penalty: Penalty
) -> None:
    values = with_target(make(shape, dtype))
    grad_error = torch.randn(shape[0])
    image, target, flow, backward = (values[name] for name in ("image", "target", "flow", "backward"))
    number = PENALTIES.index(penalty)
    error, warped, valid = backend("photometric_error", image, target, flow, backward, False, number, 0.1)
    exact = reference(to_double(values), grad_error, penalty)
    plain = reference(values, grad_error, penalty)
    expected = photometric_error_reference(**values, penalty=penalty)[2]
    torch.testing.assert_close(valid, expected, **EXACT)
    assert_as_good([error, warped], plain[:2], exact[:2])
    (grad,) = backend("photometric_error_backward", grad_error.to(error.dtype), plain[1], target, expected, number, 0.1)
    assert_as_good([grad], plain[2:], exact[2:])
    assert all(result.is_contiguous() for result in (error, warped, valid, grad))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_four_channels_a_pixel_and_boundaries(backend: Backend, dtype: torch.dtype) -> None:
    values = with_target(make((2, 4, 21, 37), dtype, size=0.1))
    image, target, flow, backward = (values[name] for name in ("image", "target", "flow", "backward"))
    error, warped, _ = backend("photometric_error", packed(image), packed(target), flow, backward, True, 2, 0.1)
    exact = reference(to_double(values), torch.ones(2), "charbonnier", boundaries=True)
    assert_as_good([error, warped], reference(values, torch.ones(2), "charbonnier", boundaries=True)[:2], exact[:2])


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (1, 3, 0, 5)], ids=str)
def test_nothing_to_compare(backend: Backend, shape: tuple[int, ...]) -> None:
    values = with_target(make(shape))
    image, target, flow = (values[name] for name in ("image", "target", "flow"))
    error, warped, valid = backend("photometric_error", image, target, flow, None, False, 0, 0.1)
    assert error.tolist() == [0.0] * shape[0]
    (grad,) = backend("photometric_error_backward", error, warped, target, valid, 0, 0.1)
    assert grad.shape == shape


def test_nothing_visible_costs_nothing_and_hidden_values_do_not_matter(backend: Backend) -> None:
    values = with_target(make((2, 3, 12, 40)))
    image, target, flow = (values[name] for name in ("image", "target", "flow"))
    flow[0] = 100.0
    flow[1] = 0.0
    flow[1, :, 3] = torch.nan
    target[1, :, 3] = torch.nan
    error, warped, valid = backend("photometric_error", image, target, flow, None, False, 0, 0.1)
    assert error[0] == 0
    assert error.isfinite().all()
    (grad,) = backend("photometric_error_backward", torch.ones(2), warped, target, valid, 0, 0.1)
    assert grad.isfinite().all()
    assert (grad[0] == 0).all()


def test_an_error_does_not_depend_on_the_batch(backend: Backend) -> None:
    values = with_target(make((3, 3, 40, 50)))
    image, target, flow = (values[name] for name in ("image", "target", "flow"))
    together = backend("photometric_error", image, target, flow, None, False, 0, 0.1)[0]
    for i in range(3):
        one = slice(i, i + 1)
        alone = backend("photometric_error", image[one], target[one], flow[one], None, False, 0, 0.1)[0]
        torch.testing.assert_close(together[one], alone, **EXACT)
