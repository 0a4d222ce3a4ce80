"""The CUDA kernels of modulated_conv2d, emulated on the CPU, against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from legato.ops import modulated_conv2d_reference
from tests.ops.compare import assert_as_good, to_double, with_gradients
from tests.ops.test_modulated_conv2d import SHAPES, make, tensors
from tests.tolerances import EXACT

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)
SQRT2 = 2**0.5


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
    given = options_of(**given)
    grad = torch.randn(modulated_conv2d_reference(**values).shape)

    def reference(arguments: dict[str, Tensor | None]) -> list[Tensor]:
        def call(**all_tensors: Tensor | None) -> Tensor:
            return modulated_conv2d_reference(**all_tensors, up=values["up"], **given)

        return with_gradients(call, arguments, ("x", "styles"), grad)

    plain = tensors(values)
    assert_as_good(run_emulated(ops, values, grad, **given), reference(plain), reference(to_double(plain)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_as_good_as_the_reference(emulated: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(emulated, make(shape, dtype))
