"""to_rgb: the reference against the published formula, the kernel against the reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from legato.ops import to_rgb, to_rgb_reference
from tests.ops.compare import assert_as_good, precise, to_double, with_gradients
from tests.ops.test_upsample2d import insert_and_filter
from tests.tolerances import COMPILED, EXACT, OP_GRADIENT, SAME_FORMULA

pytestmark = pytest.mark.usefixtures("device")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BOTH = pytest.mark.parametrize("f", [to_rgb, to_rgb_reference])
SHAPES = [  # B, I, H, W: whole and broken blocks of channels, groups of pixels
    (2, 32, 16, 18),
    (1, 64, 4, 4),
    (3, 8, 2, 6),
    (2, 13, 6, 10),
    (1, 37, 8, 2),
    (1, 1, 2, 2),
    (1, 48, 34, 30),
]


def make(
    shape: tuple[int, ...] = (2, 19, 6, 10), dtype: torch.dtype = torch.float32, *, with_image: bool = True
) -> dict[str, Any]:
    """Random arguments of the op, all tensors there."""
    batch, inputs, height, width = shape
    image = torch.randn(batch, 3, height // 2, width // 2).to(precise(dtype))
    return {
        "x": torch.randn(shape).to(dtype),
        "weight": torch.randn(3, inputs, 1, 1).to(dtype),
        "styles": (1 + torch.randn(batch, inputs)).to(precise(dtype)) / inputs**0.5,
        "bias": torch.randn(3).to(dtype),
        "image": image if with_image else None,
    }


def wanted(values: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in ("x", "styles", "image") if values[name] is not None)


def results(
    f: Callable[..., Tensor], values: dict[str, Any], grad: Tensor | None = None, **options: Any
) -> list[Tensor]:
    """The image and its gradients to x, styles and, where there is one, the running image."""
    shape = (values["x"].shape[0], 3, *values["x"].shape[2:])
    grad = torch.ones(()).expand(shape) if grad is None else grad
    return with_gradients(partial(f, **options), values, wanted(values), grad)


def check_accuracy(values: dict[str, Any], *, grad: Tensor | None = None, **options: Any) -> None:
    if grad is None:
        grad = torch.randn(values["x"].shape[0], 3, *values["x"].shape[2:])
    exact = results(to_rgb_reference, to_double(values), grad, **options)
    fused = results(to_rgb, values, grad, **options)
    assert fused[0].is_contiguous()
    assert fused[1].is_contiguous(memory_format=torch.channels_last)
    assert_as_good(fused, results(to_rgb_reference, values, grad, **options), exact)


@pytest.mark.parametrize("with_image", [True, False])
def test_reference_is_the_published_formula(with_image: bool) -> None:
    """Karras et al. 2020, fig. 7 and eq. 1: each sample's own weight, no demodulation, onto the upsampled image."""
    values = make((2, 5, 6, 8), torch.float64, with_image=with_image)
    own = values["weight"][None, :, :, 0, 0] * values["styles"][:, None]  # [B, 3, I]
    y = torch.einsum("boi,bihw->bohw", own, values["x"]) + values["bias"][:, None, None]
    y = y.clamp(-0.7, 0.7)
    if with_image:
        y = y + insert_and_filter(values["image"])
    torch.testing.assert_close(to_rgb_reference(**values, clamp=0.7), y, **SAME_FORMULA)


@pytest.mark.parametrize("clamp", [None, 0.8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_is_as_good_as_the_reference(shape: tuple[int, ...], dtype: torch.dtype, clamp: float | None) -> None:
    check_accuracy(make(shape, dtype), clamp=clamp)


@pytest.mark.parametrize("missing", ["bias", "image", "both"])
def test_optional_arguments(missing: str) -> None:
    values = make()
    values.update(dict.fromkeys(["bias", "image"] if missing == "both" else [missing]))
    check_accuracy(values, clamp=1.0)


@pytest.mark.parametrize("shape", [(2, 5, 7, 9), (1, 32, 1, 33), (2, 16, 1, 1), (1, 24, 3, 6)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_sizes_without_an_image(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_accuracy(make(shape, dtype, with_image=False), clamp=0.5)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels-last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "sliced": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same(layout: str) -> None:
    values, grad = make(), torch.randn(2, 3, 6, 10)
    strange: dict[str, Any] = {
        name: LAYOUTS[layout](value) if value.dim() == 4 else value for name, value in values.items()
    }
    strange["styles"] = values["styles"].t().contiguous().t()
    strange["bias"] = values["bias"].repeat_interleave(2)[::2]
    expected = results(to_rgb, values, grad, clamp=1.0)
    for a, b in zip(results(to_rgb, strange, LAYOUTS[layout](grad), clamp=1.0), expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_an_expanded_gradient() -> None:
    """sum().backward() hands over one number in all places."""
    check_accuracy(make(), grad=torch.ones(()).expand(2, 3, 6, 10))


@BOTH
def test_an_empty_batch(f: Callable[..., Tensor]) -> None:
    assert [list(r.shape) for r in results(f, make((0, 5, 6, 4)))] == [[0, 3, 6, 4], [0, 5, 6, 4], [0, 5], [0, 3, 3, 2]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_element_is_written(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert torch.empty(8).isnan().all(), "the suite poisons fresh memory"
    assert all(result.isfinite().all() for result in results(to_rgb, make(shape, dtype), clamp=1.0))


def test_a_gradient_alone() -> None:
    values, grad = make(), torch.randn(2, 3, 6, 10)
    every = results(to_rgb, values, grad)
    for index, name in enumerate(("x", "styles", "image")):
        alone = with_gradients(to_rgb, values, (name,), grad)[1]
        torch.testing.assert_close(alone, every[1 + index], **EXACT)


def test_clamp_bounds_what_is_added_and_its_gradient() -> None:
    values = make()
    values["image"] *= 100
    without = to_rgb(**{**values, "image": None}, clamp=0.25)
    assert without.max() == 0.25
    assert without.min() == -0.25
    assert to_rgb(**values, clamp=0.25).abs().max() > 10
    values["bias"] += 1e6  # everything is clamped
    gradients = results(to_rgb, values, clamp=0.25)[1:]
    assert not gradients[0].any()
    assert not gradients[1].any()
    assert gradients[2].any()


@pytest.mark.parametrize("argument", ["x", "styles"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_stays_in_its_sample(argument: str, dtype: torch.dtype) -> None:
    values = make((3, 18, 6, 4), dtype)
    clean = to_rgb(**values, clamp=256.0)
    values[argument][1] = torch.nan
    y = to_rgb(**values, clamp=256.0)
    assert y[1].isnan().all()
    torch.testing.assert_close(y[::2], clean[::2], **EXACT)
    gradient = results(to_rgb, values)[2 if argument == "x" else 1]
    assert gradient[1].isnan().all()
    assert gradient[::2].isfinite().all()


def test_nan_stays_in_its_pixel() -> None:
    values = make((1, 17, 4, 6))
    values["x"][0, 2, 1, 3] = torch.nan
    y = to_rgb(**values, clamp=256.0)
    assert y[:, :, 1, 3].isnan().all()
    assert y.isnan().sum() == 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1e-12, 1e6, 1e15])
def test_styles_of_any_size(size: float, dtype: torch.dtype) -> None:
    """Half precision too: what is summed is float32."""
    values = make((2, 24, 6, 4), dtype)
    values["styles"] = values["styles"] * size
    values["image"] = values["image"] * size
    values["bias"] = None
    grad = torch.randn(2, 3, 6, 4) / max(size, 1.0)
    check_accuracy(values, grad=grad * 64 if dtype == torch.float16 and size > 1 else grad)


def test_the_range_of_float16() -> None:
    """Subnormal, largest and rounded values of x, and of its gradient, pass as torch would convert them."""
    x = torch.tensor([6e-8, -5e-5, 6.0e-5, 65504.0, -1.0, 0.0, 1.0009766, 3e-6] * 4, dtype=torch.float16)
    weight, styles = torch.zeros(3, 32, 1, 1, dtype=torch.float16), torch.ones(1, 32)
    weight[0] = 1.0
    gradients = torch.autograd.functional.jacobian(lambda s: to_rgb(x.view(1, 32, 1, 1), weight, s)[0, 0], styles)
    torch.testing.assert_close(gradients.flatten(), x.float(), **EXACT)
    factors = torch.cat([x.float()[:8], torch.tensor([1e-9, 2.99e-8, 65519.0, 65520.0, 1e9, 2049 / 2048, 4097 / 4096])])
    factors = torch.cat([factors, -factors, torch.tensor([torch.inf, -torch.inf])])[None]
    grad = torch.ops.legato.to_rgb_backward(
        torch.ones(1, 3, 1, 1), x.view(1, 32, 1, 1), weight, factors, None, None, False
    )[0]
    torch.testing.assert_close(grad.flatten(), factors.half().flatten(), **EXACT)


def test_the_number_of_threads_changes_nothing() -> None:
    values, grad = make((2, 32, 64, 64)), torch.randn(2, 3, 64, 64)
    one = results(to_rgb, values, grad, clamp=1.0)
    torch.set_num_threads(2)
    two = results(to_rgb, values, grad, clamp=1.0)
    torch.set_num_threads(1)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    values = make((3, 33, 10, 6))
    whole = results(to_rgb, values, clamp=1.0)
    constants = ("weight", "bias")
    for i in range(3):
        alone = {name: value if name in constants else value[i : i + 1] for name, value in values.items()}
        for a, b in zip(results(to_rgb, alone, clamp=1.0), whole, strict=True):
            torch.testing.assert_close(a, b[i : i + 1], **EXACT)


@pytest.mark.parametrize("clamp", [None, 1.0])
def test_gradients_of_the_kernel(clamp: float | None) -> None:
    values = make((2, 18, 2, 4), torch.float64)
    leaves = [values[name].requires_grad_() for name in ("x", "styles", "image")]

    def f(x: Tensor, styles: Tensor, image: Tensor) -> Tensor:
        return to_rgb(x, values["weight"], styles, bias=values["bias"], image=image, clamp=clamp)

    assert torch.autograd.gradcheck(f, leaves, **OP_GRADIENT)


def test_second_derivatives_of_the_reference() -> None:
    values = make((1, 3, 2, 4), torch.float64)
    leaves = [values[name].requires_grad_() for name in ("x", "weight", "styles", "bias", "image")]

    def f(x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor, image: Tensor) -> Tensor:
        return to_rgb_reference(x, weight, styles, bias=bias, image=image)

    assert torch.autograd.gradcheck(f, leaves, **OP_GRADIENT)
    assert torch.autograd.gradgradcheck(f, leaves, **OP_GRADIENT)


@pytest.mark.parametrize("name", ["x", "styles", "image"])
def test_a_second_derivative_of_the_kernel_is_refused(name: str) -> None:
    values = make()
    leaf = values[name].requires_grad_()
    (grad,) = torch.autograd.grad(to_rgb(**values).square().sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="to_rgb_reference"):
        grad.sum().backward()


def test_opcheck() -> None:
    values = make((2, 18, 4, 6))
    to_rgb(**values)  # loads the extension
    for name in wanted(values):
        values[name].requires_grad_()
    torch.library.opcheck(torch.ops.legato.to_rgb.default, (*values.values(), 1.0))
    torch.library.opcheck(torch.ops.legato.to_rgb.default, (*list(values.values())[:3], None, None, None))
    constants = [values[name].detach() for name in ("x", "weight", "styles", "bias")]
    for with_image in (True, False):
        backward = torch.ops.legato.to_rgb_backward.default
        torch.library.opcheck(backward, (torch.randn(2, 3, 4, 6), *constants, 1.0, with_image))


def test_compiles_into_one_graph() -> None:
    values, grad = make((2, 18, 4, 6)), torch.randn(2, 3, 4, 6)

    def step(**kw: Any) -> Tensor:
        return to_rgb(**{**kw, "styles": kw["styles"] * 2}, clamp=2.0) + 1

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for a, b in zip(results(compiled, values, grad), results(step, values, grad), strict=True):
        torch.testing.assert_close(a, b, **COMPILED)


def test_no_gradient_keeps_nothing() -> None:
    values = make()
    values["weight"].requires_grad_()
    values["x"].requires_grad_()
    with torch.no_grad():
        y = to_rgb(**values)
    assert not y.requires_grad
    torch.testing.assert_close(y, to_rgb(**{**values, "weight": values["weight"].detach()}), **EXACT)
