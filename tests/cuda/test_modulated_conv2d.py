"""The CUDA kernels of modulated_conv2d, emulated on the CPU, against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from legato.ops import modulated_conv2d_reference
from tests.cuda.emulation import Emulator
from tests.ops.compare import assert_as_good, to_double, with_gradients
from tests.ops.test_modulated_conv2d import LAYOUTS, SHAPES, make, tensors
from tests.tolerances import EXACT

SHUFFLED = 20210
HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALVES)
SQRT2 = 2**0.5
NEAR_ZERO = 0.05  # of the root mean square; bfloat16 rounds a tenth as much
TILES = [  # B, I, O, H, W, up, k: what the kernels take different ways
    pytest.param((1, 24, 72, 40, 36, 1, 3), id="tiles-of-256"),
    pytest.param((1, 16, 24, 40, 36, 1, 3), id="tiles-of-512"),
    pytest.param((2, 72, 24, 30, 36, 2, 3), id="up-at-once"),
    pytest.param((1, 32, 40, 34, 20, 2, 3), id="up-at-once-narrow-gradient"),
    pytest.param((1, 16, 40, 70, 5, 1, 3), id="tall"),
    pytest.param((2, 128, 48, 8, 8, 1, 3), id="split"),
    pytest.param((1, 256, 40, 12, 16, 2, 3), id="split-up"),
    pytest.param((1, 256, 8, 19, 17, 2, 3), id="wide-up"),
    pytest.param((1, 68, 66, 20, 18, 1, 3), id="unaligned"),
    pytest.param((1, 9, 35, 17, 18, 2, 3), id="unaligned-up"),
    pytest.param((2, 40, 24, 20, 20, 1, 1), id="pointwise"),
]

ALONE = [(4, 72, 16, 8, 8, 1, 3), (4, 16, 72, 24, 20, 1, 3), (4, 16, 8, 18, 16, 2, 3)]
ORDERED = [(2, 72, 72, 20, 17, 1, 3), (1, 24, 40, 17, 16, 2, 3), (2, 128, 8, 4, 4, 2, 3)]


@pytest.fixture
def ops(emulator: Emulator) -> Any:
    emulator.order(SHUFFLED)
    return emulator.ops


def options_of(**given: Any) -> dict[str, Any]:
    return {"slope": 0.2, "gain": SQRT2, "clamp": None, **given}


def run_emulated(ops: Any, values: dict[str, Any], grad: Tensor, **given: Any) -> list[Tensor]:
    arguments = [*values.values(), *options_of(**given).values()]
    y = ops.modulated_conv2d(*arguments)
    assert y.is_contiguous(memory_format=torch.channels_last)
    grad_x, grad_styles = ops.modulated_conv2d_backward(grad.to(y.dtype), y, *arguments)
    assert grad_x.is_contiguous(memory_format=torch.channels_last)
    return [y, grad_x, grad_styles]


def check(ops: Any, values: dict[str, Any], **given: Any) -> None:
    """As good as the reference, both fed no gradient where y is so near 0 that rounding decides its sign: there
    chance, and not care, would decide which of the two errs less."""
    given = options_of(**given)
    plain = tensors(values)
    double: dict[str, Any] = to_double(plain)
    exact_y = modulated_conv2d_reference(**double, up=values["up"], **given)
    grad = torch.randn(exact_y.shape)
    grad[exact_y.abs() < NEAR_ZERO * exact_y.square().mean().sqrt()] = 0

    def reference(arguments: dict[str, Tensor | None]) -> list[Tensor]:
        def call(**all_tensors: Any) -> Tensor:
            return modulated_conv2d_reference(**all_tensors, up=values["up"], **given)

        return with_gradients(call, arguments, ("x", "styles"), grad)

    assert_as_good(run_emulated(ops, values, grad, **given), reference(plain), reference(double))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_as_good_as_the_reference(ops: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(ops, make(shape, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("shape", TILES)
def test_tiles(ops: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(ops, make(shape, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize(
    "given", [{"slope": 1.0, "gain": 1.0}, {"slope": 0.0}, {"slope": 0.5, "gain": 0.3, "clamp": 1.0}], ids=str
)
def test_activations(ops: Any, given: dict[str, Any], up: int, dtype: torch.dtype) -> None:
    check(ops, make((1, 16, 24, 18, 17, up, 3), dtype), **given)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("missing", ["q", "noise", "bias", "all"])
@pytest.mark.parametrize("shape", [(2, 8, 6, 5, 4, 1, 3), (1, 8, 16, 17, 16, 2, 3), (2, 128, 8, 4, 4, 1, 3)], ids=str)
def test_optional_arguments(ops: Any, shape: tuple[int, ...], missing: str, dtype: torch.dtype) -> None:
    values = make(shape, dtype)
    for name in ("q", "noise", "bias") if missing == "all" else (missing,):
        values[name] = None
    check(ops, values)


@pytest.mark.parametrize("shape", [(3, 8, 16, 18, 17, 1, 3), (3, 8, 16, 16, 17, 2, 3), (3, 64, 8, 4, 4, 1, 3)], ids=str)
def test_each_sample_may_have_its_noise(ops: Any, shape: tuple[int, ...]) -> None:
    check(ops, make(shape, torch.bfloat16, each_noise=True))


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("layout", [*LAYOUTS, "shifted"])
def test_any_layout_gives_the_same(ops: Any, layout: str, up: int) -> None:
    """Bit for bit, also where addresses are no multiples of 16 bytes."""

    def shift(t: Tensor) -> Tensor:
        buffer = torch.empty(t.numel() + 1, dtype=t.dtype)
        n, c, h, w = t.shape
        return buffer[1:].view(n, h, w, c).permute(0, 3, 1, 2).copy_(t)

    values = make((2, 16, 24, 17, 18, up, 3), torch.bfloat16)
    grad = torch.randn(2, 24, 17 * up, 18 * up)
    change = {**LAYOUTS, "shifted": shift}[layout]
    strange = {name: change(v) if isinstance(v, Tensor) and v.dim() == 4 else v for name, v in values.items()}
    strange["styles"] = values["styles"].t().contiguous().t()
    for a, b in zip(run_emulated(ops, values, grad), run_emulated(ops, strange, change(grad)), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [(4, 72, 16, 8, 8, 1, 3), (4, 16, 72, 24, 20, 1, 3), (4, 16, 8, 18, 16, 2, 3)], ids=str
)
def test_a_sample_alone_is_the_same_bit_for_bit(ops: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """y and grad_x; the gradient of the styles may be summed over other tiles."""
    values = make(shape, dtype)
    batch, _, outputs, height, width, up, _ = shape
    grad = torch.randn(batch, outputs, height * up, width * up)
    one = {**values, "x": values["x"][2:3], "styles": values["styles"][2:3]}
    together, alone = run_emulated(ops, values, grad), run_emulated(ops, one, grad[2:3])
    for a, b in zip(together[:2], alone[:2], strict=True):
        torch.testing.assert_close(a[2:3], b, **EXACT)


@pytest.mark.parametrize(
    "shape", [(2, 72, 72, 20, 17, 1, 3), (1, 24, 40, 17, 16, 2, 3), (2, 128, 8, 4, 4, 2, 3)], ids=str
)
def test_the_order_of_threads_does_not_matter(emulator: Emulator, shape: tuple[int, ...]) -> None:
    values = make(shape, torch.bfloat16)
    grad = torch.randn(modulated_conv2d_reference(**values).shape)
    results = []
    for order in (0, 1, SHUFFLED):
        emulator.order(order)
        results.append(run_emulated(emulator.ops, values, grad))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("up", [1, 2])
def test_an_empty_batch(ops: Any, up: int) -> None:
    y, grad_x, grad_styles = run_emulated(ops, make((0, 5, 4, 6, 7, up, 3)), torch.empty(0, 4, 6 * up, 7 * up))
    assert y.shape == (0, 4, 6 * up, 7 * up)
    assert grad_x.shape == (0, 5, 6, 7)
    assert grad_styles.shape == (0, 5)


@pytest.mark.parametrize("shape", [(2, 8, 6, 5, 4, 1, 3), (2, 8, 16, 17, 16, 2, 3), (2, 64, 8, 4, 4, 1, 3)], ids=str)
def test_large_styles_do_not_overflow_half_precision(ops: Any, shape: tuple[int, ...]) -> None:
    values = make(shape, torch.float16)
    values["styles"] *= 1e5
    check(ops, values)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 6, 5, 4, 1, 3), (2, 8, 16, 17, 16, 2, 3), (2, 64, 8, 4, 4, 1, 3)], ids=str)
def test_nan_stays_with_its_sample(ops: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = make(shape, dtype)
    values["styles"][1] = float("nan")
    grad = torch.randn(modulated_conv2d_reference(**values).shape)
    for result in run_emulated(ops, values, grad):
        assert result[0].isfinite().all()
        assert result[1].isnan().all()


def test_wrong_arguments_are_named(ops: Any) -> None:
    values = [*make().values(), 0.2, 1.0, None]
    with pytest.raises(RuntimeError, match=r"modulated_conv2d: weight has to be .*\[O,I,k,k\]"):
        ops.modulated_conv2d(values[0], values[1][:, :3], *values[2:])
    y = ops.modulated_conv2d(*values)
    with pytest.raises(RuntimeError, match=r"grad_y has to be .* = \[2,4,6,7\]; got \[2,4,6\]"):
        ops.modulated_conv2d_backward(y[..., 0], y, *values)
