"""photometric_error: the formula, the kernel against the reference, gradients, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from legato.ops import flow_warp, photometric_error, photometric_error_reference
from tests.ops.compare import assert_as_good, precise, to_double, with_gradients
from tests.tolerances import COMPILED, EXACT, OP_GRADIENT, SAME_FORMULA

pytestmark = pytest.mark.usefixtures("device")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PENALTIES = ("l1", "l2", "charbonnier")
LEAVES = ("image", "target", "flow")
Op = Callable[..., tuple[Tensor, Tensor, Tensor]]
BOTH = pytest.mark.parametrize("f", [photometric_error, photometric_error_reference])
EACH_PENALTY = pytest.mark.parametrize("penalty", PENALTIES)


def make(
    shape: tuple[int, ...] = (2, 3, 6, 19), dtype: torch.dtype = torch.float32, size: float = 1.5
) -> dict[str, Any]:
    batch, _, height, width = shape
    flow = size * torch.randn(batch, 2, height, width)
    return {
        "image": torch.randn(shape).to(dtype),
        "target": torch.randn(shape).to(dtype),
        "flow": flow.to(precise(dtype)),
        "backward": (-flow + 0.6 * torch.randn_like(flow)).to(precise(dtype)),
    }


def error(f: Op, **options: Any) -> Callable[..., Tensor]:
    return lambda **values: f(**values, **options)[0]


def both(f: Op, **options: Any) -> Callable[..., Tensor]:
    """Error and warped image in one number per sample, so that gradients come from either."""

    def total(**values: Tensor) -> Tensor:
        result, warped, _ = f(**values, **options)
        return result + warped.to(result.dtype).square().sum((1, 2, 3))

    return total


def results(f: Op, values: dict[str, Any], grad: Tensor, **options: Any) -> list[Tensor]:
    return with_gradients(error(f, **options), values, LEAVES, grad)


@BOTH
@EACH_PENALTY
@pytest.mark.parametrize("boundaries", [False, True])
def test_is_the_mean_penalty_of_what_is_valid(f: Op, penalty: str, boundaries: bool) -> None:
    values = make(dtype=torch.float64, size=0.4)
    values["flow"][..., :9] = values["flow"][..., :1, :1]  # a part without motion boundaries
    result, warped, valid = f(**values, boundaries=boundaries, penalty=penalty, epsilon=0.1)
    kept = {"backward": values["backward"], "boundaries": boundaries}
    for a, b in zip((warped, valid), flow_warp(values["image"], values["flow"], **kept), strict=True):
        torch.testing.assert_close(a, b, **SAME_FORMULA)
    gap = (warped - values["target"])[valid.bool().expand_as(warped)]
    rho = {"l1": gap.abs(), "l2": gap**2, "charbonnier": torch.hypot(gap, torch.tensor(0.1, dtype=gap.dtype))}[penalty]
    owner = torch.arange(2).view(2, 1, 1, 1).expand_as(warped)[valid.bool().expand_as(warped)]
    expected = torch.stack([rho[owner == i].sum() / max(3 * valid[i].sum().item(), 1) for i in range(2)])
    torch.testing.assert_close(result, expected, **SAME_FORMULA)
    assert 0 < valid.sum() < valid.numel()


@EACH_PENALTY
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 4, 5, 39), (3, 1, 7, 2), (1, 2, 1, 6), (2, 2, 1, 1)], ids=str)
def test_kernel_is_as_good_as_the_reference(shape: tuple[int, ...], dtype: torch.dtype, penalty: str) -> None:
    values, grad = make(shape, dtype), torch.rand(shape[0]) + 0.5
    fused, plain, exact = (
        results(f, v, grad, penalty=penalty, epsilon=0.05)
        for f, v in (
            (photometric_error, values),
            (photometric_error_reference, values),
            (photometric_error_reference, to_double(values)),
        )
    )
    if dtype in (torch.bfloat16, torch.float16) and penalty == "l1":  # a rounded difference may change its sign
        fused, plain, exact = fused[:1], plain[:1], exact[:1]
    assert_as_good(fused, plain, exact)
    valid = [f(**values)[2] for f in (photometric_error, photometric_error_reference)]
    torch.testing.assert_close(*valid, **EXACT)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_gradients_flow_through_the_warped_image_as_well(dtype: torch.dtype) -> None:
    values, grad = make(dtype=dtype), torch.rand(2) + 0.5
    fused, plain, exact = (
        with_gradients(both(f), v, LEAVES, grad)
        for f, v in (
            (photometric_error, values),
            (photometric_error_reference, values),
            (photometric_error_reference, to_double(values)),
        )
    )
    assert_as_good(fused, plain, exact)


def test_the_warped_image_alone() -> None:
    values, grad = make(), torch.randn(2, 3, 6, 19)
    leaves = {name: values[name].requires_grad_() for name in LEAVES}
    through = torch.autograd.grad(
        photometric_error(**values)[1], list(leaves.values()), grad, allow_unused=True, materialize_grads=True
    )
    direct = torch.autograd.grad(flow_warp(values["image"], values["flow"])[0], (leaves["image"], leaves["flow"]), grad)
    torch.testing.assert_close(through[0], direct[0], **EXACT)
    torch.testing.assert_close(through[2], direct[1], **EXACT)
    assert not through[1].any()


@pytest.mark.parametrize("wanted", LEAVES)
def test_one_gradient_alone(wanted: str) -> None:
    values, grad = make(), torch.rand(2)
    alone = with_gradients(error(photometric_error), values, (wanted,), grad)
    torch.testing.assert_close(alone[1], results(photometric_error, values, grad)[1 + LEAVES.index(wanted)], **EXACT)


@BOTH
@EACH_PENALTY
def test_nothing_valid_is_no_error(f: Op, penalty: str) -> None:
    values = make()
    values["flow"][1] = 99.0
    leaves = results(f, values, torch.ones(2), penalty=penalty)
    assert leaves[0][0] > 0
    assert leaves[0][1] == 0
    assert all(not gradient[1].any() for gradient in leaves[1:])


@BOTH
@EACH_PENALTY
def test_nan_that_is_not_valid_reaches_nothing(f: Op, penalty: str) -> None:
    values = make(size=0.0)
    values["target"][0, 0, 2, 3] = torch.nan
    values["flow"][0, 0, 2, 3] = torch.nan
    assert all(result.isfinite().all() for result in results(f, values, torch.ones(2), penalty=penalty))


@BOTH
def test_nan_that_is_valid_is_not_hidden(f: Op) -> None:
    values = make(size=0.0)
    values["image"][1, 0, 2, 3] = torch.nan
    result = f(**{**values, "backward": None})[0]
    assert result[0].isfinite()
    assert result[1].isnan()


@BOTH
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (1, 3, 0, 5), (1, 3, 4, 0)], ids=str)
def test_nothing_to_compare(f: Op, shape: tuple[int, ...]) -> None:
    values = make(shape)
    result, *gradients = results(f, values, torch.ones(shape[0]))
    assert torch.equal(result, torch.zeros(shape[0]))
    assert [g.shape for g in gradients] == [values[name].shape for name in LEAVES]


@pytest.mark.parametrize(
    "layout",
    [
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    ],
    ids=["channels-last", "sliced", "transposed"],
)
def test_any_layout_gives_the_same(layout: Callable[[Tensor], Tensor]) -> None:
    values, grad = make(), torch.rand(4)[::2]
    strange = {name: layout(value) for name, value in values.items()}
    for a, b in zip(
        results(photometric_error, strange, grad), results(photometric_error, values, grad.contiguous()), strict=True
    ):
        torch.testing.assert_close(a, b, **EXACT)


def test_the_number_of_threads_changes_nothing() -> None:
    values, grad = make((3, 3, 70, 90)), torch.rand(3)
    one = results(photometric_error, values, grad)
    again = results(photometric_error, values, grad)
    torch.set_num_threads(2)
    two = results(photometric_error, values, grad)
    torch.set_num_threads(1)
    for a, b, c in zip(one, again, two, strict=True):
        torch.testing.assert_close(a, b, **EXACT)
        torch.testing.assert_close(a, c, **EXACT)


def test_accepts_deterministic_mode() -> None:
    values = make()
    torch.use_deterministic_algorithms(True)
    try:
        results(photometric_error, values, torch.ones(2))
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)  # as conftest has it


@BOTH
@EACH_PENALTY
def test_gradients(f: Op, penalty: str) -> None:
    values = make((1, 2, 4, 5), torch.float64)
    leaves = tuple(values[name].requires_grad_() for name in LEAVES)

    def step(*v: Tensor) -> tuple[Tensor, Tensor]:
        return f(*v, penalty=penalty, epsilon=0.1)[:2]

    assert torch.autograd.gradcheck(step, leaves, **OP_GRADIENT)


def test_second_derivatives_of_the_reference() -> None:
    values = make((1, 1, 3, 4), torch.float64)
    leaves = tuple(values[name].requires_grad_() for name in LEAVES)
    assert torch.autograd.gradgradcheck(
        lambda *v: photometric_error_reference(*v, penalty="charbonnier", epsilon=0.5)[0], leaves, **OP_GRADIENT
    )


def test_a_second_derivative_of_the_kernel_is_refused() -> None:
    values = make()
    leaf = values["target"].requires_grad_()
    (grad,) = torch.autograd.grad(photometric_error(**values, penalty="l2")[0].sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="photometric_error_reference"):
        grad.sum().backward()


def test_opcheck() -> None:
    values = make()
    _, warped, valid = photometric_error(**values)  # loads the extension
    op, back = torch.ops.legato.photometric_error.default, torch.ops.legato.photometric_error_backward.default
    leaves = [values[name].requires_grad_() for name in LEAVES]
    torch.library.opcheck(op, (*leaves, None, False, 0, 0.1))
    torch.library.opcheck(op, (*leaves, values["backward"], True, 2, 0.1))
    torch.library.opcheck(back, (torch.rand(2), warped, torch.randn(2, 3, 6, 19), valid, 1, 0.1))


@pytest.mark.filterwarnings("ignore:`torch.jit.*:DeprecationWarning")  # torch's own, from importing its compiler
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_into_one_graph(backend: str) -> None:
    values, grad = make(), torch.rand(2)

    def step(image: Tensor, target: Tensor, flow: Tensor) -> Tensor:
        result, warped, valid = photometric_error(image * 2, target, flow, backward=values["backward"], penalty="l2")
        return result + (warped * valid).mean((1, 2, 3))

    given: dict[str, Tensor | None] = {name: values[name] for name in LEAVES}
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for a, b in zip(
        with_gradients(compiled, given, LEAVES, grad), with_gradients(step, given, LEAVES, grad), strict=True
    ):
        torch.testing.assert_close(a, b, **COMPILED)


IMAGE = torch.ones(2, 3, 6, 19)
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "image": ({"image": torch.ones(3, 6, 7)}, ValueError, r"image has to be \[B,C,H,W\].*got \[3, 6, 7\]"),
    "target": ({"target": IMAGE[:, :1]}, ValueError, r"target has to be .* = \[2,3,6,19\]; got \[2, 1, 6, 19\]"),
    "target-dtype": ({"target": IMAGE.half()}, TypeError, "target has to be of dtype torch.float32; got torch.float16"),
    "target-device": ({"target": IMAGE.to("meta")}, ValueError, "target has to be on .*, .* got meta"),
    "flow": ({"flow": torch.ones(2, 2, 6, 7)}, ValueError, r"flow has to be .* = \[2,2,6,19\]; got \[2, 2, 6, 7\]"),
    "backward": ({"backward": torch.ones(1, 2, 6, 19)}, ValueError, r"backward has to be .*got \[1, 2, 6, 19\]"),
    "bytes": ({"image": IMAGE.byte()}, TypeError, "image has to be floating point; got torch.uint8"),
    "penalty": ({"penalty": "huber"}, ValueError, "penalty has to be one of l1, l2, charbonnier; got 'huber'"),
    "epsilon": ({"epsilon": 0.0}, ValueError, "epsilon has to be positive and finite; got 0.0"),
}


@BOTH
@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case: str, f: Op, device: str) -> None:
    change, kind, message = WRONG[case]
    change = {
        name: value.to(device) if isinstance(value, Tensor) and not value.is_meta else value
        for name, value in change.items()
    }
    with pytest.raises(kind, match="photometric_error: " + message):
        f(**{**make(), **change})


def test_the_dispatcher_ops_check_too() -> None:
    values = make()
    _, warped, valid = photometric_error(**values)
    image, target, flow, backward = values.values()
    op, back = torch.ops.legato.photometric_error, torch.ops.legato.photometric_error_backward
    for arguments, message in (
        ((image, target[:, :1], flow, None, False, 0, 0.1), r"target has to be \[B,C,H,W\] = \[2,3,6,19\]"),
        ((image, target, flow.double(), None, False, 0, 0.1), "flow has to be of dtype Float; got Double"),
        ((image, target, flow, backward[:1], False, 0, 0.1), r"backward has to be \[B,2,H,W\] = \[2,2,6,19\]"),
        ((image, target, flow, None, False, 3, 0.1), "penalty has to be 0 .* got 3"),
        ((image, target, flow, None, False, 0, -1.0), "epsilon has to be positive and finite; got -1"),
    ):
        with pytest.raises(RuntimeError, match="photometric_error: " + message):
            op(*arguments)
    with pytest.raises(RuntimeError, match=r"photometric_error: grad_error has to be \[B\] = \[2\]; got \[3\]"):
        back(torch.ones(3), warped, target, valid, 0, 0.1)
