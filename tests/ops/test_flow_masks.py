"""flow_warp's `valid`: by a formula in loops, the kernel against the reference, blocks of every kind of flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from legato.ops import flow_warp, flow_warp_reference
from tests.ops.compare import assert_as_good, precise, to_double, with_gradients
from tests.tolerances import EXACT

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BOTH = pytest.mark.parametrize("f", [flow_warp, flow_warp_reference])
Warp = Callable[..., tuple[Tensor, Tensor]]


def make(height: int = 9, width: int = 37, dtype: torch.dtype = torch.float32, batch: int = 2) -> dict[str, Any]:
    """A smooth flow of some pixels, an opposite flow that is off here and there, and an image."""
    flow = F.interpolate(2 * torch.randn(batch, 2, 3, 3), (height, width), mode="bilinear", align_corners=True)
    backward = -flow + 0.7 * torch.randn(batch, 2, height, width)
    image = torch.randn(batch, 3, height, width)
    return {
        "image": image.to(dtype),
        "flow": flow.to(precise(dtype)),
        "backward": backward.to(precise(dtype)),
    }


def bilinear(plane: Tensor, x: float, y: float) -> float:
    height, width = plane.shape
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    top = (1 - (x - x0)) * plane[y0, x0] + (x - x0) * plane[y0, x1]
    bottom = (1 - (x - x0)) * plane[y1, x0] + (x - x0) * plane[y1, x1]
    return float((1 - (y - y0)) * top + (y - y0) * bottom)


def by_hand(flow: Tensor, backward: Tensor | None, boundaries: bool) -> Tensor:
    """[H, W] of one sample, [2, H, W]."""
    _, height, width = flow.shape
    valid = torch.zeros(height, width)
    for row in range(height):
        for column in range(width):
            u, v = flow[:, row, column].tolist()
            x, y = column + u, row + v
            good = 0 <= x <= width - 1 and 0 <= y <= height - 1
            if good and backward is not None:
                p, q = bilinear(backward[0], x, y), bilinear(backward[1], x, y)
                good = (u + p) ** 2 + (v + q) ** 2 <= 0.01 * (u * u + v * v + p * p + q * q) + 0.5
            if good and boundaries:
                right = flow[:, row, min(column + 1, width - 1)] - flow[:, row, column]
                below = flow[:, min(row + 1, height - 1), column] - flow[:, row, column]
                good = float(right.square().sum() + below.square().sum()) <= 0.01 * (u * u + v * v) + 0.002
            valid[row, column] = good
    return valid


@BOTH
@pytest.mark.parametrize("boundaries", [False, True])
@pytest.mark.parametrize("checked", [False, True])
def test_is_the_published_formula(f: Warp, checked: bool, boundaries: bool) -> None:
    values = make(dtype=torch.float64)
    values["flow"][0, :, :, 20:] *= 0.1  # calmer: fewer boundaries
    backward = values["backward"] if checked else None
    _, valid = f(values["image"], values["flow"], backward=backward, boundaries=boundaries)
    for sample in range(2):
        expected = by_hand(values["flow"][sample], backward[sample] if backward is not None else None, boundaries)
        assert torch.equal(valid[sample, 0], expected.double())
    assert 0 < valid.sum() < valid.numel()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(9, 37), (1, 16), (16, 1), (5, 2), (40, 64)], ids=str)
def test_kernel_has_the_mask_of_the_reference(shape: tuple[int, int], dtype: torch.dtype) -> None:
    values = make(*shape, dtype)
    for boundaries in (False, True):
        fused, plain = (f(**values, boundaries=boundaries)[1] for f in (flow_warp, flow_warp_reference))
        assert fused.dtype == dtype
        torch.testing.assert_close(fused, plain, **EXACT)


@BOTH
def test_an_image_without_channels_asks_for_the_mask_alone(f: Warp) -> None:
    values = make()
    expected = f(**values, boundaries=True)[1]
    nothing, valid = f(values["image"][:, :0], values["flow"], backward=values["backward"], boundaries=True)
    assert nothing.shape == (2, 0, 9, 37)
    assert torch.equal(valid, expected)


@BOTH
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30], ids=str)
def test_an_opposite_flow_that_is_no_vector_is_not_trusted(f: Warp, bad: float) -> None:
    values = make()
    values["flow"].zero_()
    values["backward"].zero_()
    values["backward"][1, 0, 4, 20] = bad
    _, valid = f(**values)
    assert valid[1, 0, 4, 20] == 0
    assert valid[0].all()
    assert valid.sum() >= valid.numel() - 4


@BOTH
def test_a_flow_beside_nan_is_a_boundary(f: Warp) -> None:
    values = make()
    values["flow"].zero_()
    values["flow"][0, 1, 4, 20] = torch.nan
    valid = f(values["image"], values["flow"], boundaries=True)[1]
    assert [valid[0, 0, y, x].item() for y, x in ((4, 20), (4, 19), (3, 20))] == [0, 0, 0]
    assert valid.sum() == valid.numel() - 3


@BOTH
def test_masks_leave_image_and_gradients_alone(f: Warp) -> None:
    values, grad = make(), torch.randn(2, 3, 9, 37)
    backward = values.pop("backward")
    plain, masked = (
        with_gradients(lambda image, flow, o=options: f(image, flow, **o)[0], values, ("image", "flow"), grad)
        for options in ({}, {"backward": backward, "boundaries": True})
    )
    for a, b in zip(masked, plain, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


# Sixteen pixels are read at once: from one row, from several, from far apart; at borders; in widths that end inside.
FLOWS: dict[str, Callable[[int, int], Tensor]] = {
    "still": lambda h, w: torch.zeros(1, 2, h, w),
    "shifted": lambda h, w: torch.full((1, 2, h, w), 0.75),
    "turned": lambda h, w: 0.3 * (torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))[None]),
    "steep": lambda h, w: 0.2 * torch.arange(w).expand(1, 2, h, w).clone(),
    "wide": lambda h, w: 0.9 * torch.arange(w).expand(1, 2, h, w) * torch.tensor([1.0, 0.0])[None, :, None, None],
    "mirrored": lambda h, w: (w - 1.0 - 2 * torch.arange(w)).expand(1, 2, h, w) * torch.tensor([1, 0])[:, None, None],
    "wild": lambda h, w: 9 * torch.randn(1, 2, h, w),
    "outside": lambda h, w: torch.full((1, 2, h, w), 99.0),
}


@pytest.mark.parametrize("width", [2, 15, 16, 33, 70])
@pytest.mark.parametrize("name", FLOWS)
def test_blocks_of_every_kind(name: str, width: int) -> None:
    values = {"image": torch.randn(1, 3, 21, width), "flow": FLOWS[name](21, width).float().contiguous()}
    grad = torch.randn(1, 3, 21, width)
    fused, plain, exact = (
        with_gradients(lambda image, flow, f=f: f(image, flow)[0], v, ("image", "flow"), grad)
        for f, v in ((flow_warp, values), (flow_warp_reference, values), (flow_warp_reference, to_double(values)))
    )
    assert_as_good(fused, plain, exact)


WRONG: dict[str, tuple[Tensor, type[Exception], str]] = {
    "shape": (torch.ones(2, 2, 9, 36), ValueError, r"backward has to be \[B,2,H,W\] = \[2,2,9,37\]; got \[2, 2, 9, 36"),
    "dtype": (
        torch.ones(2, 2, 9, 37).half(),
        TypeError,
        "backward has to be of dtype torch.float32; got torch.float16",
    ),
    "device": (torch.ones(2, 2, 9, 37, device="meta"), ValueError, "backward has to be on cpu, .* got meta"),
}


@BOTH
@pytest.mark.parametrize("case", WRONG)
def test_wrong_opposite_flows_are_named(case: str, f: Warp) -> None:
    wrong, error, message = WRONG[case]
    with pytest.raises(error, match="flow_warp: " + message):
        f(**{**make(), "backward": wrong})


def test_the_dispatcher_op_checks_the_opposite_flow() -> None:
    values = make()
    flow_warp(**values)
    for wrong in (torch.ones(2, 2, 9, 36), torch.ones(2, 2, 9, 37).double()):
        with pytest.raises(RuntimeError, match="flow_warp: backward has to be"):
            torch.ops.legato.flow_warp(values["image"], values["flow"], wrong, False)


def test_compiles_with_masks() -> None:
    values = make()
    compiled = torch.compile(flow_warp, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(**values, boundaries=True), flow_warp(**values, boundaries=True), strict=True):
        torch.testing.assert_close(a, b, **EXACT)
