"""modulated_conv2d: what it refuses, and how it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from legato.errors import BackendUnavailable
from legato.ops import modulated_conv2d, modulated_conv2d_reference
from tests.ops.test_modulated_conv2d import make, tensors


@pytest.mark.parametrize("argument", ["weight", "q", "noise", "bias"])
def test_constants_that_require_grad_are_refused(argument: str) -> None:
    values = make()
    values[argument].requires_grad_()
    with pytest.raises(ValueError, match=rf"{argument} requires grad.*modulated_conv2d_reference"):
        modulated_conv2d(**values)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "x-axes": ({"x": torch.ones(5, 6, 7)}, r"x has to be \[B,I,H,W\].*got \[5, ?6, ?7\]"),
    "x-no-pixel": ({"x": torch.ones(2, 5, 0, 7)}, r"x has to have at least one channel and pixel"),
    "weight-inputs": ({"weight": torch.ones(4, 6, 3, 3)}, r"weight has to be \[O,I,k,k\] = \[\*,5,\*,\*\]; got"),
    "weight-taps": ({"weight": torch.ones(4, 5, 2, 2)}, r"weight has to have 3x3 taps, or 1x1 when up is 1; got"),
    "weight-up": ({"weight": torch.ones(4, 5, 1, 1), "up": 2, "noise": None}, r"weight has to have 3x3 taps"),
    "styles": ({"styles": torch.ones(2, 4)}, r"styles has to be \[B,I\] = \[2,5\]; got \[2, ?4\]"),
    "styles-axes": ({"styles": torch.ones(5)}, r"styles has to be \[B,I\] = \[2,5\]; got \[5\]"),
    "q": ({"q": torch.ones(5, 4)}, r"q has to be \[O,I\] = \[4,5\]; got \[5, ?4\]"),
    "noise": ({"noise": torch.ones(3, 1, 6, 7)}, r"noise has to be \[1 or B,1,H\*up,W\*up\] = \[2,1,6,7\]; got"),
    "noise-axes": ({"noise": torch.ones(6, 7)}, r"noise has to be .* = \[2,1,6,7\]; got \[6, ?7\]"),
    "bias": ({"bias": torch.ones(5)}, r"bias has to be \[O\] = \[4\]; got \[5\]"),
    "up": ({"up": 3}, r"up has to be 1 or 2; got 3"),
    "slope": ({"slope": -0.1}, r"slope has to be within \[0, 1\]; got -0.1"),
    "gain": ({"gain": 0.0}, r"gain has to be positive and finite; got 0"),
    "clamp": ({"clamp": -1.0}, r"clamp has to be None or positive; got -1"),
    "clamp-nan": ({"clamp": float("nan")}, r"clamp has to be None or positive; got nan"),
}  # fmt: skip
WRONG_DTYPES: dict[str, tuple[dict[str, Any], str]] = {
    "weight": ({"weight": torch.ones(4, 5, 3, 3).bfloat16()}, r"weight has to be of dtype .*; got .*BFloat16"),
    "styles": ({"styles": torch.ones(2, 5).double()}, r"styles has to be of dtype .*; got .*(float64|Double)"),
    "q": ({"q": torch.ones(4, 5).bfloat16()}, r"q has to be of dtype .*; got .*BFloat16"),
    "noise": ({"noise": torch.ones(1, 1, 6, 7).double()}, r"noise has to be of dtype .*; got .*(float64|Double)"),
    "bias": ({"bias": torch.ones(4).int()}, r"bias has to be of dtype .*; got .*int"),
}


@pytest.mark.parametrize("f", [modulated_conv2d, modulated_conv2d_reference])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_named(case: str, f: Callable[..., Tensor]) -> None:
    change, message = WRONG[case]
    with pytest.raises(ValueError, match="modulated_conv2d: " + message):
        f(**{**make(), **change})


@pytest.mark.parametrize("f", [modulated_conv2d, modulated_conv2d_reference])
@pytest.mark.parametrize("case", WRONG_DTYPES)
def test_wrong_dtypes_are_named(case: str, f: Callable[..., Tensor]) -> None:
    change, message = WRONG_DTYPES[case]
    with pytest.raises(TypeError, match="(?i)modulated_conv2d: " + message):
        f(**{**make(), **change})


@pytest.mark.parametrize("case", [*WRONG, *(f"dtype-{name}" for name in WRONG_DTYPES)])
def test_the_dispatcher_op_checks_too(case: str) -> None:
    """Whoever calls torch.ops directly reads no memory that is not there."""
    values = {**make(), "slope": 0.2, "gain": 1.0, "clamp": None}
    modulated_conv2d(**values)
    change, message = WRONG_DTYPES[case[6:]] if case.startswith("dtype-") else WRONG[case]
    with pytest.raises(RuntimeError, match="(?i)modulated_conv2d: " + message):
        torch.ops.legato.modulated_conv2d(*{**values, **change}.values())


def test_the_backward_op_checks_its_gradient() -> None:
    values = {**make(), "slope": 0.2, "gain": 1.0, "clamp": None}
    y = modulated_conv2d(**values)
    with pytest.raises(RuntimeError, match=r"grad_y has to be .* = \[2,4,6,7\]; got \[2,4,6\]"):
        torch.ops.legato.modulated_conv2d_backward(y[..., 0], y, *values.values())


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"x has to be floating point; got torch\.int64"):
        modulated_conv2d(**{**make(), "x": torch.ones(2, 5, 6, 7, dtype=torch.int64)})


@pytest.mark.parametrize("f", [modulated_conv2d, modulated_conv2d_reference])
@pytest.mark.parametrize("demodulate", [True, False])
def test_large_styles_do_not_overflow_half_precision(demodulate: bool, f: Callable[..., Tensor]) -> None:
    values = make(dtype=torch.float16)
    values["styles"] = values["styles"] * 1e5  # x * styles overflows
    if not demodulate:
        values["q"], values["weight"] = None, values["weight"] / 100
    y = f(**values)
    assert y.isfinite().all()
    assert y.abs().max() > 0


def test_unknown_dtypes_are_refused() -> None:
    values = make()
    given: dict[str, Any] = {
        name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors(values).items() if tensor is not None
    }
    given["styles"], given["q"] = values["styles"], values["q"]
    with pytest.raises(TypeError, match=r"float32, bfloat16, float16 or float64; got torch\.float8_e4m3fn"):
        modulated_conv2d(**given)


def test_devices_are_not_mixed() -> None:
    values = make()
    values["styles"] = values["styles"].to("meta")
    for f in (modulated_conv2d, modulated_conv2d_reference):
        with pytest.raises(ValueError, match="styles has to be on cpu, the device of the first argument; got meta"):
            f(**values)


def test_a_device_without_kernel_is_an_error_not_a_fallback() -> None:
    with FakeTensorMode(), pytest.raises(BackendUnavailable, match=r"no xpu kernel.*modulated_conv2d_reference"):
        modulated_conv2d(
            torch.empty(1, 2, 4, 4, device="xpu"),
            torch.empty(2, 2, 3, 3, device="xpu"),
            torch.empty(1, 2, device="xpu"),
        )
