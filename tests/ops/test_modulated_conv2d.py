"""modulated_conv2d: the reference against the published formula, the kernel against the reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from legato.ops import modulated_conv2d, modulated_conv2d_reference
from tests.ops.compare import assert_as_good, precise, relative_error, root_mean_square, to_double, with_gradients
from tests.tolerances import AUTOCAST, COMPILED, EXACT, OP_GRADIENT, SAME_FORMULA

pytestmark = pytest.mark.usefixtures("device")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPES = [  # B, I, O, H, W, up, k
    pytest.param((2, 16, 24, 8, 8, 1, 3), id="plain"),
    pytest.param((2, 16, 24, 8, 8, 2, 3), id="up"),
    pytest.param((3, 24, 3, 8, 8, 1, 1), id="rgb"),
    pytest.param((2, 16, 5, 8, 8, 1, 1), id="pointwise"),
    pytest.param((1, 7, 5, 3, 9, 1, 3), id="odd"),
    pytest.param((3, 5, 7, 5, 3, 2, 3), id="odd-up"),
    pytest.param((1, 13, 3, 1, 7, 1, 1), id="odd-rgb"),
    pytest.param((2, 6, 4, 1, 1, 1, 3), id="one-pixel"),
    pytest.param((2, 6, 4, 1, 1, 2, 3), id="one-pixel-up"),
    pytest.param((1, 64, 33, 16, 16, 2, 3), id="wide-up"),
    pytest.param((1, 12, 8, 66, 65, 1, 3), id="large"),  # on the CPU the weight takes the styles
    pytest.param((1, 8, 12, 33, 35, 2, 3), id="large-up"),
    pytest.param((1, 12, 8, 64, 65, 1, 1), id="large-pointwise"),
]


def make(
    shape: tuple[int, ...] = (2, 5, 4, 6, 7, 1, 3), dtype: torch.dtype = torch.float32, *, each_noise: bool = False
) -> dict[str, Any]:
    """Random arguments of the op, all tensors there."""
    batch, inputs, outputs, height, width, up, k = shape
    weight = torch.randn(outputs, inputs, k, k).to(dtype)
    return {
        "x": torch.randn(batch, inputs, height, width).to(dtype),
        "weight": weight,
        "styles": (1 + torch.randn(batch, inputs)).to(precise(dtype)),
        "q": weight.to(precise(dtype)).square().sum((2, 3)),
        "noise": 0.1 * torch.randn(batch if each_noise else 1, 1, height * up, width * up).to(dtype),
        "bias": torch.randn(outputs).to(dtype),
        "up": up,
    }


def tensors(values: dict[str, Any]) -> dict[str, Tensor | None]:
    return {name: value for name, value in values.items() if value is None or isinstance(value, Tensor)}


def check_accuracy(values: dict[str, Any], *, grad: Tensor | None = None, **options: Any) -> None:
    options["up"] = values["up"]
    given = tensors(values)
    upstream = torch.randn(modulated_conv2d_reference(**values).shape) if grad is None else grad

    def run(f: Callable[..., Tensor], arguments: dict[str, Tensor | None]) -> list[Tensor]:
        return with_gradients(partial(f, **options), arguments, ("x", "styles"), upstream)

    if values["x"].dtype.itemsize == 2:  # which side of the kink a rounded value falls on is chance
        precise_values: dict[str, Any] = {**to_double(given), **options}
        y = modulated_conv2d_reference(**precise_values)
        upstream = torch.where(y.abs() < 0.05 * root_mean_square(y), 0.0, upstream)
    exact = run(modulated_conv2d_reference, to_double(given))
    assert_as_good(run(modulated_conv2d, given), run(modulated_conv2d_reference, given), exact)


def filter_up(t: Tensor) -> Tensor:
    """[B,C,2H+1,2W+1] -> [B,C,2H,2W] by the published 2-D filter: [1,3,3,1] x [1,3,3,1] / 64, gain 4, border 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=t.dtype) / 8
    kernel = (4 * taps[:, None] * taps).view(1, 1, 4, 4)
    return F.conv2d(F.pad(t, (1, 1, 1, 1)).flatten(0, 1)[:, None], kernel).view(
        t.shape[0], t.shape[1], t.shape[2] - 1, t.shape[3] - 1
    )


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
def test_reference_is_the_published_formula(up: int, demodulate: bool) -> None:
    """Karras et al. 2020, eq. 1-3: each sample's own weight, scaled and normalized, then convolved."""
    values = make((2, 5, 4, 6, 7, up, 3), torch.float64)
    if not demodulate:
        values["q"] = None
    weight = values["weight"]
    expected = []
    for image, style in zip(values["x"], values["styles"], strict=True):
        own = weight * style[:, None, None]
        if demodulate:
            own = own * torch.rsqrt(own.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        if up == 1:
            expected.append(F.conv2d(image[None], own, padding=1))
        else:
            expected.append(filter_up(F.conv_transpose2d(image[None], own.transpose(0, 1), stride=2)))
    y = torch.cat(expected) + values["noise"] + values["bias"][:, None, None]
    y = (torch.where(y > 0, y, 0.2 * y) * 2**0.5).clamp(-2.5, 2.5)
    torch.testing.assert_close(modulated_conv2d_reference(**values, clamp=2.5), y, **SAME_FORMULA)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_is_as_good_as_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_accuracy(make(shape, dtype))


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"slope": 1.0, "gain": 1.0},
        {"slope": 0.0},
        {"clamp": 0.7},
        {"slope": 0.5, "gain": 0.3, "clamp": 1.0},
    ],
    ids=str,
)
def test_activations(options: dict[str, Any], up: int) -> None:
    check_accuracy(make((2, 16, 24, 8, 6, up, 3)), **options)


@pytest.mark.parametrize("missing", ["q", "noise", "bias", "all"])
@pytest.mark.parametrize("shape", [(2, 8, 6, 5, 4, 1, 3), (2, 8, 6, 5, 4, 2, 3), (2, 8, 3, 5, 4, 1, 1)], ids=str)
def test_optional_arguments(shape: tuple[int, ...], missing: str) -> None:
    values = make(shape)
    for name in ("q", "noise", "bias") if missing == "all" else (missing,):
        values[name] = None
    check_accuracy(values)


@pytest.mark.parametrize("up", [1, 2])
def test_each_sample_may_have_its_noise(up: int) -> None:
    check_accuracy(make((3, 8, 6, 5, 4, up, 3), each_noise=True))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels-last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "sliced": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
}


@pytest.mark.parametrize("shape", [(2, 8, 6, 5, 4, 1, 3), (2, 8, 6, 5, 4, 2, 3), (2, 8, 3, 5, 4, 1, 1)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same(layout: str, shape: tuple[int, ...]) -> None:
    values = make(shape)
    y = modulated_conv2d(**values)
    assert y.is_contiguous(memory_format=torch.channels_last)
    strange: dict[str, Any] = {
        name: LAYOUTS[layout](value) if isinstance(value, Tensor) and value.dim() == 4 else value
        for name, value in values.items()
    }
    strange["styles"] = values["styles"].t().contiguous().t()
    strange["bias"] = values["bias"].repeat_interleave(2)[::2]
    check_accuracy(strange)
    torch.testing.assert_close(modulated_conv2d(**strange), y, **COMPILED)


def test_an_expanded_gradient() -> None:
    """sum().backward() hands over one number in all places."""
    check_accuracy(make((2, 4, 6, 5, 4, 2, 3)), grad=torch.ones(()).expand(2, 6, 10, 8))


@pytest.mark.parametrize("up", [1, 2])
def test_an_empty_batch(up: int) -> None:
    values = make((0, 5, 4, 6, 7, up, 3))
    grad = torch.empty(0, 4, 6 * up, 7 * up)
    for f in (partial(modulated_conv2d, up=up), partial(modulated_conv2d_reference, up=up)):
        results = with_gradients(f, tensors(values), ("x", "styles"), grad)
        assert [list(r.shape) for r in results] == [[0, 4, 6 * up, 7 * up], [0, 5, 6, 7], [0, 5]]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_is_written(shape: tuple[int, ...]) -> None:
    assert torch.empty(8).isnan().all(), "the suite poisons fresh memory"
    values = make(shape)
    f, grad = partial(modulated_conv2d, up=shape[5]), torch.ones_like(modulated_conv2d_reference(**values))
    results = with_gradients(f, tensors(values), ("x", "styles"), grad)
    assert all(result.isfinite().all() for result in results)


@pytest.mark.parametrize("shape", [(3, 8, 6, 5, 4, 1, 3), (3, 8, 6, 5, 4, 2, 3), (3, 8, 3, 5, 4, 1, 1)], ids=str)
@pytest.mark.parametrize("argument", ["x", "styles"])
def test_nan_stays_in_its_sample(argument: str, shape: tuple[int, ...]) -> None:
    values = make(shape)
    clean = modulated_conv2d(**values, clamp=256.0)
    values[argument][1] = torch.nan
    y = modulated_conv2d(**values, clamp=256.0)
    assert y[1].isnan().all()
    torch.testing.assert_close(y[::2], clean[::2], **COMPILED)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("size", [1e-12, 1e6, 1e15])
def test_styles_of_any_size(size: float, up: int) -> None:
    values = make((2, 8, 6, 5, 4, up, 3))
    values["styles"] = values["styles"] * size
    values["x"] = values["x"] / size if size < 1 else values["x"]
    check_accuracy(values)


def test_styles_beyond_the_range_act_as_in_the_reference() -> None:
    values = make()
    values["styles"] = values["styles"] * 1e25
    y, expected = modulated_conv2d(**values, clamp=256.0), modulated_conv2d_reference(**values, clamp=256.0)
    torch.testing.assert_close(y, expected, equal_nan=True, **COMPILED)


def test_clamp_bounds_the_result_after_the_gain() -> None:
    y = modulated_conv2d(**make(), clamp=0.25)
    assert y.max() == 0.25
    assert y.min() == -0.25


@pytest.mark.parametrize("shape", [(1, 3, 4, 3, 2, 1, 3), (1, 3, 4, 3, 2, 2, 3), (2, 3, 3, 2, 2, 1, 1)], ids=str)
def test_gradients_of_the_kernel(shape: tuple[int, ...]) -> None:
    values = make(shape, torch.float64)
    x, styles = values.pop("x").requires_grad_(), values.pop("styles").requires_grad_()

    def f(x: Tensor, styles: Tensor) -> Tensor:
        y: Tensor = modulated_conv2d(x, styles=styles, **values)
        return y

    assert torch.autograd.gradcheck(f, (x, styles), **OP_GRADIENT)


@pytest.mark.parametrize("up", [1, 2])
def test_second_derivatives_of_the_reference(up: int) -> None:
    values = make((1, 2, 2, 3, 2, up, 3), torch.float64)
    leaves = [values[name].requires_grad_() for name in ("x", "weight", "styles", "bias")]

    def f(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor) -> Tensor:
        q = weight.square().sum((2, 3))
        return modulated_conv2d_reference(x, weight, styles, q=q, bias=bias, up=up)

    assert torch.autograd.gradcheck(f, leaves, **OP_GRADIENT)
    assert torch.autograd.gradgradcheck(f, leaves, **OP_GRADIENT)


def test_a_second_derivative_of_the_kernel_is_refused() -> None:
    values = make()
    x = values["x"].requires_grad_()
    (grad,) = torch.autograd.grad(modulated_conv2d(**values).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="modulated_conv2d_reference"):
        grad.sum().backward()


@pytest.mark.parametrize("shape", [(2, 5, 4, 3, 4, 1, 3), (2, 5, 4, 3, 4, 2, 3), (2, 5, 3, 3, 4, 1, 1)], ids=str)
def test_opcheck(shape: tuple[int, ...]) -> None:
    values = make(shape)
    modulated_conv2d(**values)  # loads the extension
    values["x"].requires_grad_()
    values["styles"].requires_grad_()
    arguments = [values[name] for name in ("x", "weight", "styles", "q", "noise", "bias", "up")]
    torch.library.opcheck(torch.ops.legato.modulated_conv2d.default, (*arguments, 0.2, 1.5, 10.0))
    torch.library.opcheck(
        torch.ops.legato.modulated_conv2d.default, (*arguments[:3], None, None, None, shape[5], 1.0, 1.0, None)
    )


def test_compiles_into_one_graph() -> None:
    values = make((2, 5, 4, 3, 4, 2, 3))
    given, grad = tensors(values), torch.randn(2, 4, 6, 8)

    def layer(**kw: Any) -> Tensor:
        return modulated_conv2d(**{**kw, "styles": kw["styles"] * 2}, up=2) + 1

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for a, b in zip(
        with_gradients(compiled, given, ("x", "styles"), grad),
        with_gradients(layer, given, ("x", "styles"), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **COMPILED)


def test_under_autocast(device: str) -> None:
    values = make((2, 16, 8, 8, 8, 1, 3))
    exact = modulated_conv2d(**values)
    with torch.autocast(device, dtype=torch.bfloat16):
        y = modulated_conv2d(**values)
    assert y.dtype == torch.float32
    assert relative_error(y, exact.double()) <= AUTOCAST


def test_no_gradient_keeps_nothing() -> None:
    values = make()
    values["weight"].requires_grad_()
    values["x"].requires_grad_()
    with torch.no_grad():
        y = modulated_conv2d(**values)
    assert not y.requires_grad
    torch.testing.assert_close(y, modulated_conv2d(**{**values, "weight": values["weight"].detach()}), **EXACT)
