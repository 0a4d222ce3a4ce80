"""to_rgb: what it refuses, and how it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from legato.errors import BackendUnavailable
from legato.ops import to_rgb, to_rgb_reference
from tests.ops.test_to_rgb import make

BOTH = pytest.mark.parametrize("f", [to_rgb, to_rgb_reference])
WRONG: dict[str, tuple[dict[str, Any], str]] = {  # beside x [2, 19, 6, 10]
    "x-axes": ({"x": torch.ones(19, 6, 10)}, r"x has to be \[B,I,H,W\].*got \[19, ?6, ?10\]"),
    "x-no-pixel": ({"x": torch.ones(2, 19, 0, 10)}, r"x has to have at least one channel and pixel"),
    "x-odd": ({"x": torch.ones(2, 19, 5, 10)}, r"x has to have an even height and width beside an image; got 5x10"),
    "weight": ({"weight": torch.ones(3, 18, 1, 1)}, r"weight has to be \[3,I,1,1\] = \[3,19,1,1\]; got"),
    "weight-colors": ({"weight": torch.ones(4, 19, 1, 1)}, r"weight has to be .* = \[3,19,1,1\]; got \[4, ?19"),
    "weight-taps": ({"weight": torch.ones(3, 19, 3, 3)}, r"weight has to be .* = \[3,19,1,1\]; got \[3, ?19, ?3, ?3\]"),
    "styles": ({"styles": torch.ones(1, 19)}, r"styles has to be \[B,I\] = \[2,19\]; got \[1, ?19\]"),
    "bias": ({"bias": torch.ones(3, 1)}, r"bias has to be \[3\] = \[3\]; got \[3, ?1\]"),
    "image": ({"image": torch.ones(2, 3, 6, 10)}, r"image has to be \[B,3,H/2,W/2\] = \[2,3,3,5\]; got \[2, ?3, ?6"),
    "image-axes": ({"image": torch.ones(3, 3, 5)}, r"image has to be .* = \[2,3,3,5\]; got \[3, ?3, ?5\]"),
    "clamp": ({"clamp": 0.0}, r"clamp has to be None or positive; got 0"),
    "clamp-nan": ({"clamp": float("nan")}, r"clamp has to be None or positive; got nan"),
}  # fmt: skip
WRONG_DTYPES: dict[str, tuple[dict[str, Any], str]] = {
    "weight": ({"weight": torch.ones(3, 19, 1, 1).half()}, r"weight has to be of dtype .*; got .*(float16|Half)"),
    "styles": ({"styles": torch.ones(2, 19).double()}, r"styles has to be of dtype .*; got .*(float64|Double)"),
    "bias": ({"bias": torch.ones(3).int()}, r"bias has to be of dtype .*; got .*int"),
    "image": ({"image": torch.ones(2, 3, 3, 5).bfloat16()}, r"image has to be of dtype .*; got .*BFloat16"),
}


@BOTH
@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_named(case: str, f: Callable[..., Tensor]) -> None:
    change, message = WRONG[case]
    with pytest.raises(ValueError, match="to_rgb: " + message):
        f(**{**make(), **change})


@BOTH
@pytest.mark.parametrize("case", WRONG_DTYPES)
def test_wrong_dtypes_are_named(case: str, f: Callable[..., Tensor]) -> None:
    change, message = WRONG_DTYPES[case]
    with pytest.raises(TypeError, match="(?i)to_rgb: " + message):
        f(**{**make(), **change})


@pytest.mark.parametrize("case", [*WRONG, *(f"dtype-{name}" for name in WRONG_DTYPES)])
def test_the_dispatcher_op_checks_too(case: str) -> None:
    """Whoever calls torch.ops directly reads no memory that is not there."""
    values = {**make(), "clamp": None}
    to_rgb(**values)
    change, message = WRONG_DTYPES[case[6:]] if case.startswith("dtype-") else WRONG[case]
    with pytest.raises(RuntimeError, match="(?i)to_rgb: " + message):
        torch.ops.legato.to_rgb(*{**values, **change}.values())


def test_the_backward_op_checks_its_gradient() -> None:
    values = make()
    to_rgb(**values)
    plain = [values[name] for name in ("x", "weight", "styles", "bias")]
    with pytest.raises(RuntimeError, match=r"to_rgb: grad has to be \[B,3,H,W\] = \[2,3,6,10\]; got \[2,3,3,5\]"):
        torch.ops.legato.to_rgb_backward(values["image"], *plain, None, True)
    plain[0] = plain[0][..., 1:]
    with pytest.raises(RuntimeError, match="even height and width beside an image; got 6x9"):
        torch.ops.legato.to_rgb_backward(torch.ones(2, 3, 6, 9), *plain, None, True)


@BOTH
def test_integers_are_refused(f: Callable[..., Tensor]) -> None:
    with pytest.raises(TypeError, match=r"x has to be floating point; got torch\.int64"):
        f(**{**make(), "x": torch.ones(2, 19, 6, 10, dtype=torch.int64)})


@pytest.mark.parametrize("argument", ["weight", "bias"])
def test_constants_that_require_grad_are_refused(argument: str) -> None:
    values = make()
    values[argument].requires_grad_()
    with pytest.raises(ValueError, match=rf"{argument} requires grad.*to_rgb_reference"):
        to_rgb(**values)


@BOTH
@pytest.mark.parametrize("argument", ["weight", "styles", "bias", "image"])
def test_devices_are_not_mixed(f: Callable[..., Tensor], argument: str) -> None:
    values = make()
    values[argument] = values[argument].to("meta")
    with pytest.raises(ValueError, match=f"{argument} has to be on cpu, the device of the first argument; got meta"):
        f(**values)


def test_a_device_without_kernel_is_an_error_not_a_fallback() -> None:
    with FakeTensorMode(), pytest.raises(BackendUnavailable, match=r"no xpu kernel.*to_rgb_reference"):
        to_rgb(
            torch.empty(1, 2, 4, 4, device="xpu"),
            torch.empty(3, 2, 1, 1, device="xpu"),
            torch.empty(1, 2, device="xpu"),
        )
