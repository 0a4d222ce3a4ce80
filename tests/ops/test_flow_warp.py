"""flow_warp: the convention by hand, the reference against grid_sample, the kernel against the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from legato.errors import BackendUnavailable
from legato.ops import flow_warp, flow_warp_reference
from tests.ops.compare import assert_as_good, precise, to_double, with_gradients
from tests.tolerances import COMPILED, EXACT, OP_GRADIENT, SAME_FORMULA

pytestmark = pytest.mark.usefixtures("device")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BOTH = pytest.mark.parametrize("f", [flow_warp, flow_warp_reference])
SHAPES = [(2, 3, 8, 8), (1, 4, 5, 9), (3, 1, 7, 2), (1, 2, 1, 6), (1, 2, 6, 1), (2, 2, 1, 1)]


def make(
    shape: tuple[int, ...] = (2, 3, 6, 7), dtype: torch.dtype = torch.float32, size: float = 2.0
) -> dict[str, Any]:
    batch, _, height, width = shape
    return {
        "image": torch.randn(shape).to(dtype),
        "flow": size * torch.randn(batch, 2, height, width).to(precise(dtype)),
    }


def warped(f: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    return lambda image, flow: f(image, flow)[0]


@BOTH
def test_pulls_from_where_the_flow_points(f: Callable[..., tuple[Tensor, Tensor]]) -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 1.0  # x: every pixel reads its right neighbor
    result, valid = f(image, flow)
    assert result[0, 0].tolist() == [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]
    assert valid[0, 0].tolist() == [[1, 1, 1, 0]] * 3
    result, valid = f(image, torch.stack([torch.zeros(1, 3, 4), torch.full((1, 3, 4), -0.5)], 1))  # y: half a pixel up
    assert result[0, 0].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [6, 7, 8, 9]]
    assert valid[0, 0].tolist() == [[0] * 4, [1] * 4, [1] * 4]


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_flow_changes_nothing(f: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
    image = torch.randn(2, 3, 5, 4).to(dtype)
    result, valid = f(image, torch.zeros(2, 2, 5, 4, dtype=precise(dtype)))
    torch.testing.assert_close(result, image, **EXACT)
    torch.testing.assert_close(valid, torch.ones(2, 1, 5, 4, dtype=dtype), **EXACT)


@BOTH
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 4, 5, 9)], ids=str)
def test_is_grid_sample_with_a_clamped_border(f: Callable[..., tuple[Tensor, Tensor]], shape: tuple[int, ...]) -> None:
    values = make(shape, torch.float64, size=4.0)
    height, width = shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x_to, y_to = x + values["flow"][:, 0], y + values["flow"][:, 1]
    grid = torch.stack([2 * x_to / (width - 1) - 1, 2 * y_to / (height - 1) - 1], -1)
    expected = F.grid_sample(values["image"], grid, padding_mode="border", align_corners=True)
    result, valid = f(**values)
    torch.testing.assert_close(result, expected, **SAME_FORMULA)
    assert torch.equal(valid[:, 0].bool(), (grid.abs() <= 1).all(-1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [0.3, 3.0])
def test_kernel_is_as_good_as_the_reference(shape: tuple[int, ...], dtype: torch.dtype, size: float) -> None:
    values = make(shape, dtype, size)
    grad = torch.randn(shape)
    fused, plain, exact = (
        with_gradients(warped(f), v, ("image", "flow"), grad)
        for f, v in (
            (flow_warp, values),
            (flow_warp_reference, values),
            (flow_warp_reference, to_double(values)),
        )
    )
    assert_as_good(fused, plain, exact)
    torch.testing.assert_close(flow_warp(**values)[1], flow_warp_reference(**values)[1], **EXACT)


@pytest.mark.parametrize("wanted", ["image", "flow"])
def test_one_gradient_alone(wanted: str) -> None:
    values, grad = make(), torch.randn(2, 3, 6, 7)
    alone = with_gradients(warped(flow_warp), values, (wanted,), grad)
    both = with_gradients(warped(flow_warp), values, ("image", "flow"), grad)
    torch.testing.assert_close(alone[1], both[1 if wanted == "image" else 2], **EXACT)


@BOTH
def test_the_flow_has_no_gradient_where_it_is_clamped(f: Callable[..., tuple[Tensor, Tensor]]) -> None:
    values = make((1, 2, 4, 4), size=0.2)
    values["flow"][:, 0] = 9.0
    gradients = with_gradients(warped(f), values, ("flow",), torch.ones(1, 2, 4, 4))
    assert (gradients[1][:, 0] == 0).all()
    assert (gradients[1][:, 1] != 0).any()


@BOTH
def test_at_rest_the_gradient_is_the_forward_difference(f: Callable[..., tuple[Tensor, Tensor]]) -> None:
    values = {"image": torch.tensor([[[[1.0, 3.0, 7.0]]]]), "flow": torch.zeros(1, 2, 1, 3)}
    gradients = with_gradients(warped(f), values, ("flow",), torch.ones(1, 1, 1, 3))
    assert gradients[1][0, 0, 0].tolist() == [2.0, 4.0, 0.0]


@BOTH
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30], ids=str)
def test_a_flow_that_is_no_position(f: Callable[..., tuple[Tensor, Tensor]], bad: float) -> None:
    values = make()
    clean = f(**values)
    values["flow"][1, :, 2, 3] = bad
    gradients = with_gradients(warped(f), values, ("image", "flow"), torch.ones(2, 3, 6, 7))
    assert all(result.isfinite().all() for result in gradients)
    result, valid = f(**values)
    assert valid[1, 0, 2, 3] == 0
    corner = values["image"][1, :, -1, -1] if bad > 0 else values["image"][1, :, 0, 0]
    assert torch.equal(result[1, :, 2, 3], corner)
    others = torch.ones(2, 1, 6, 7, dtype=torch.bool)
    others[1, :, 2, 3] = False
    assert torch.equal(valid[others], clean[1][others])
    assert torch.equal(result.masked_select(others), clean[0].masked_select(others))


def test_nan_in_the_image_stays_where_it_is_read() -> None:
    values = make((1, 1, 4, 4), size=0.0)
    values["image"][0, 0, 1, 1] = torch.nan
    result, valid = flow_warp(**values)
    assert valid.all()
    assert result.isfinite().sum() >= 12


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels-last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "sliced": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same(layout: str) -> None:
    values, grad = make(), torch.randn(2, 3, 6, 7)
    strange = {name: LAYOUTS[layout](value) for name, value in values.items()}
    expected = with_gradients(warped(flow_warp), values, ("image", "flow"), grad)
    for a, b in zip(
        with_gradients(warped(flow_warp), strange, ("image", "flow"), LAYOUTS[layout](grad)), expected, strict=True
    ):
        torch.testing.assert_close(a, b, **EXACT)


@BOTH
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (1, 3, 0, 5)], ids=str)
def test_nothing_to_warp(f: Callable[..., tuple[Tensor, Tensor]], shape: tuple[int, ...]) -> None:
    values = make(shape)
    gradients = with_gradients(warped(f), values, ("image", "flow"), torch.empty(shape))
    assert [r.shape for r in gradients] == [values["image"].shape, values["image"].shape, values["flow"].shape]


def test_the_number_of_threads_changes_nothing() -> None:
    values, grad = make((2, 3, 64, 64)), torch.randn(2, 3, 64, 64)
    one = with_gradients(warped(flow_warp), values, ("image", "flow"), grad)
    torch.set_num_threads(2)
    two = with_gradients(warped(flow_warp), values, ("image", "flow"), grad)
    torch.set_num_threads(1)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@BOTH
def test_gradients(f: Callable[..., tuple[Tensor, Tensor]]) -> None:
    values = make((1, 2, 4, 5), torch.float64)
    leaves = (values["image"].requires_grad_(), values["flow"].requires_grad_())
    assert torch.autograd.gradcheck(lambda *v: f(*v)[0], leaves, **OP_GRADIENT)


def test_second_derivatives_of_the_reference() -> None:
    values = make((1, 1, 3, 4), torch.float64)
    leaves = (values["image"].requires_grad_(), values["flow"].requires_grad_())
    assert torch.autograd.gradgradcheck(lambda *v: flow_warp_reference(*v)[0], leaves, **OP_GRADIENT)


@pytest.mark.parametrize("name", ["image", "flow"])
def test_a_second_derivative_of_the_kernel_is_refused(name: str) -> None:
    values = make()
    leaf = values[name].requires_grad_()
    result = flow_warp(**values)[0]
    weight = torch.ones_like(result, requires_grad=True)
    (grad,) = torch.autograd.grad(result, leaf, weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="flow_warp_reference"):
        grad.sum().backward()


def test_opcheck() -> None:
    values = make()
    flow_warp(**values)  # loads the extension
    image, flow = values["image"].requires_grad_(), values["flow"].requires_grad_()
    opposite = torch.randn(2, 2, 6, 7)
    torch.library.opcheck(torch.ops.legato.flow_warp.default, (image, flow, None, False))
    torch.library.opcheck(torch.ops.legato.flow_warp.default, (image, flow, opposite, True))
    grad = torch.randn(2, 3, 6, 7)
    torch.library.opcheck(torch.ops.legato.flow_warp_backward_image.default, (grad, flow.detach(), True))
    torch.library.opcheck(torch.ops.legato.flow_warp_backward_flow.default, (grad, image.detach(), flow.detach()))


def test_compiles_into_one_graph() -> None:
    values, grad = make(), torch.randn(2, 3, 6, 7)

    def step(image: Tensor, flow: Tensor) -> Tensor:
        result, valid = flow_warp(image, flow * 2)
        return (result - image) * valid

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for a, b in zip(
        with_gradients(compiled, values, ("image", "flow"), grad),
        with_gradients(step, values, ("image", "flow"), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **COMPILED)


WRONG: dict[str, tuple[dict[str, Tensor], str]] = {
    "image": ({"image": torch.ones(3, 6, 7)}, r"image has to be \[B,C,H,W\].*got \[3, ?6, ?7\]"),
    "flow-batch": (
        {"flow": torch.ones(1, 2, 6, 7)},
        r"flow has to be \[B,2,H,W\] = \[2,2,6,7\]; got \[1, ?2, ?6, ?7\]",
    ),
    "flow-size": ({"flow": torch.ones(2, 2, 7, 6)}, r"flow has to be \[B,2,H,W\] = \[2,2,6,7\]; got \[2, ?2, ?7, ?6\]"),
    "flow-last": ({"flow": torch.ones(2, 6, 7, 2)}, r"flow has to be \[B,2,H,W\] = \[2,2,6,7\]; got \[2, ?6, ?7, ?2\]"),
}


@BOTH
@pytest.mark.parametrize("case", WRONG)
def test_wrong_shapes_are_named(case: str, f: Callable[..., tuple[Tensor, Tensor]]) -> None:
    change, message = WRONG[case]
    with pytest.raises(ValueError, match="flow_warp: " + message):
        f(**{**make(), **change})


@pytest.mark.parametrize("case", WRONG)
def test_the_dispatcher_op_checks_too(case: str) -> None:
    flow_warp(**make())
    change, message = WRONG[case]
    with pytest.raises(RuntimeError, match="flow_warp: " + message):
        torch.ops.legato.flow_warp(*{**make(), **change}.values(), None, False)


def test_the_backward_ops_check_their_gradients() -> None:
    image, flow = make().values()
    flow_warp(image, flow)
    with pytest.raises(RuntimeError, match=r"grad_warped has to be \[B,C,H,W\] = \[2,3,6,7\]; got \[2,1,6,7\]"):
        torch.ops.legato.flow_warp_backward_flow(image[:, :1], image, flow)
    with pytest.raises(RuntimeError, match=r"flow has to be \[B,2,H,W\] = \[2,2,6,6\]; got \[2,2,6,7\]"):
        torch.ops.legato.flow_warp_backward_image(image[..., :6], flow, False)


@BOTH
def test_half_precision_flows_are_refused(f: Callable[..., tuple[Tensor, Tensor]]) -> None:
    values = make(dtype=torch.bfloat16)
    with pytest.raises(TypeError, match=r"flow has to be of dtype torch\.float32; got torch\.bfloat16"):
        f(values["image"], values["flow"].bfloat16())


@BOTH
def test_bytes_are_refused(f: Callable[..., tuple[Tensor, Tensor]]) -> None:
    values = make()
    with pytest.raises(TypeError, match=r"image has to be floating point; got torch\.uint8"):
        f(values["image"].byte(), values["flow"])


def test_devices_are_not_mixed(device: str) -> None:
    values = make()
    with pytest.raises(ValueError, match=f"flow has to be on {device}.*, the device of the first argument; got meta"):
        flow_warp(values["image"], values["flow"].to("meta"))


def test_a_device_without_kernel_is_an_error_not_a_fallback() -> None:
    with FakeTensorMode(), pytest.raises(BackendUnavailable, match=r"no xpu kernel.*flow_warp_reference"):
        flow_warp(torch.empty(1, 3, 4, 4, device="xpu"), torch.empty(1, 2, 4, 4, device="xpu"))
