"""The CUDA kernels of flow_warp against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from legato.ops import flow_warp_reference
from tests.cuda.conftest import Backend
from tests.ops.compare import assert_as_good, precise, to_double, with_gradients
from tests.tolerances import EXACT

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(2, 3, 9, 33), (1, 4, 17, 40), (3, 1, 7, 2), (1, 2, 1, 70), (2, 5, 1, 1)]  # beside and beyond a tile


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, size: float = 2.0) -> dict[str, Any]:
    batch, _, height, width = shape
    flow = size * torch.randn(batch, 2, height, width, dtype=precise(dtype))
    return {"image": torch.randn(shape).to(dtype), "flow": flow, "backward": 0.3 * torch.randn_like(flow) - flow}


def packed(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)


def shifted(image: Tensor) -> Tensor:
    """Four channels a pixel, at an address that is no multiple of 16 bytes."""
    batch, channels, height, width = image.shape
    memory = torch.empty(image.numel() + 4, dtype=image.dtype)[4:]
    return memory.view(batch, height, width, channels).permute(0, 3, 1, 2).copy_(image)


def reference(values: dict[str, Any], grad: Tensor, boundaries: bool = False) -> list[Tensor]:
    """warped and the gradients of its product with `grad` to image and flow."""
    backward = values["backward"]

    def warped(image: Tensor, flow: Tensor) -> Tensor:
        return flow_warp_reference(image, flow, backward=backward, boundaries=boundaries)[0]

    return with_gradients(warped, {"image": values["image"], "flow": values["flow"]}, ("image", "flow"), grad)


def check_accuracy(
    backend: Backend, values: dict[str, Any], layout: Callable[[Tensor], Tensor], *, deterministic: bool
) -> None:
    image, flow = values["image"], values["flow"]
    grad = torch.randn(image.shape).to(image.dtype)
    warped, _ = backend("flow_warp", layout(image), flow, None, False)
    (grad_image,) = backend("flow_warp_backward_image", layout(grad), flow, deterministic)
    (grad_flow,) = backend("flow_warp_backward_flow", layout(grad), layout(image), flow)
    assert all(result.is_contiguous() for result in (warped, grad_image, grad_flow))
    exact = reference(to_double(values), grad)
    assert_as_good([warped, grad_image, grad_flow], reference(values, grad), exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "deterministic"])
def test_as_good_as_the_reference(
    backend: Backend, shape: tuple[int, ...], dtype: torch.dtype, deterministic: bool
) -> None:
    check_accuracy(backend, make(shape, dtype), torch.clone, deterministic=deterministic)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_four_channels_a_pixel(backend: Backend, dtype: torch.dtype) -> None:
    check_accuracy(backend, make((2, 4, 11, 37), dtype), packed, deterministic=False)


def test_other_layouts_are_brought_into_planes(backend: Backend) -> None:
    check_accuracy(backend, make((2, 3, 6, 7)), packed, deterministic=True)
    check_accuracy(
        backend, make((2, 4, 6, 7)), lambda t: packed(t.repeat_interleave(2, 3))[..., ::2], deterministic=False
    )
    check_accuracy(backend, make((2, 4, 6, 7), torch.float16), shifted, deterministic=False)


@pytest.mark.parametrize("boundaries", [False, True])
@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("channels", [0, 3])
def test_what_is_valid(backend: Backend, both_ways: bool, boundaries: bool, channels: int) -> None:
    image = torch.randn(2, channels, 19, 35)
    flow = torch.nn.functional.interpolate(0.12 * torch.randn(2, 2, 4, 6), size=(19, 35), mode="bicubic")
    backward = None
    if both_ways:
        backward = 0.6 * torch.randn_like(flow) - flow
        backward[1, 0, 7, 8] = torch.nan
    flow[0, 0, 3, 4], flow[0, 1, 5, 6] = torch.nan, torch.inf
    warped, valid = backend("flow_warp", image, flow, backward, boundaries)
    expected = flow_warp_reference(image, flow, backward=backward, boundaries=boundaries)[1]
    assert 0.1 < expected.mean() < 0.98
    torch.testing.assert_close(valid, expected, **EXACT)
    assert warped.shape == image.shape
    assert warped.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (1, 3, 0, 5), (1, 3, 4, 0)], ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_nothing_to_warp(backend: Backend, shape: tuple[int, ...], deterministic: bool) -> None:
    check_accuracy(backend, make(shape), torch.clone, deterministic=deterministic)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_deterministic_sums_do_not_depend_on_the_order(backend: Backend, dtype: torch.dtype) -> None:
    """All pixels fall on few; the sums are the same bit by bit in another order, and for each sample alone."""
    values = make((3, 2, 24, 32), dtype)
    flow = torch.zeros_like(values["flow"])
    flow[:, 0], flow[:, 1] = -torch.arange(32) + 3.25, -torch.arange(24)[:, None] + 2
    grad = torch.randn(3, 2, 24, 32).to(dtype) * torch.tensor([1e-3, 1.0, 30.0]).to(dtype).view(3, 1, 1, 1)
    (together,) = backend("flow_warp_backward_image", grad, flow, True)
    (turned,) = backend("flow_warp_backward_image", grad.flip(2, 3), flow, True)
    torch.testing.assert_close(together, turned, **EXACT)
    for i in range(3):
        (alone,) = backend("flow_warp_backward_image", grad[i : i + 1], flow[i : i + 1], True)
        torch.testing.assert_close(together[i : i + 1], alone, **EXACT)


def test_deterministic_gradients_that_are_not_finite_stay_in_their_sample(backend: Backend) -> None:
    values = make((3, 2, 5, 6))
    grad = torch.randn(3, 2, 5, 6)
    (clean,) = backend("flow_warp_backward_image", grad, values["flow"], True)
    grad[0, 0, 0, 0], grad[2, 1, 4, 4] = torch.nan, torch.inf
    (result,) = backend("flow_warp_backward_image", grad, values["flow"], True)
    assert result[[0, 2]].isnan().all()
    torch.testing.assert_close(result[1], clean[1], **EXACT)


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-30, 1e37])
def test_deterministic_gradients_of_any_size(backend: Backend, scale: float) -> None:
    values = make((1, 2, 9, 10))
    grad = torch.randn(1, 2, 9, 10) * scale
    (result,) = backend("flow_warp_backward_image", grad, values["flow"], True)
    exact = reference(to_double(values), grad)[1]
    assert_as_good([result], [reference(values, grad)[1]], [exact])
