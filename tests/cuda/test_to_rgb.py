"""The CUDA kernels of to_rgb against the reference in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from legato.ops import to_rgb_reference
from tests.cuda.conftest import Backend
from tests.ops.compare import assert_as_good, precise, to_double, with_gradients
from tests.tolerances import EXACT

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SHAPES = [  # B, I, H, W: whole and broken vectors, chunks, warps and tiles
    (2, 32, 16, 18),
    (1, 64, 4, 4),
    (3, 8, 2, 6),
    (2, 13, 6, 8),
    (1, 1, 2, 2),
    (1, 40, 34, 30),
]


def make(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Random arguments of the op, all tensors there."""
    batch, inputs, height, width = shape
    x = torch.randn(shape).to(dtype)
    return {
        "x": x.contiguous(memory_format=torch.channels_last),
        "weight": (torch.randn(3, inputs, 1, 1) / inputs**0.5).to(dtype),
        "styles": torch.randn(batch, inputs, dtype=precise(dtype)),
        "bias": torch.randn(3).to(dtype),
        "image": torch.randn(batch, 3, height // 2, width // 2, dtype=precise(dtype)),
    }


def check_accuracy(backend: Backend, values: dict[str, Any], clamp: float | None = None, *, size: float = 1.0) -> None:
    """The result and its gradients, of `size`, to x, styles and, where there is one, the image."""
    image = values["image"]
    wanted = ("x", "styles") if image is None else ("x", "styles", "image")
    grad = size * torch.randn(values["x"].shape[0], 3, *values["x"].shape[2:], dtype=precise(values["x"].dtype))

    def run(given: dict[str, Any]) -> list[Tensor]:
        return with_gradients(lambda **v: to_rgb_reference(**v, clamp=clamp), given, wanted, grad)

    (result,) = backend("to_rgb", *values.values(), clamp)
    plain = [values[name] for name in ("x", "weight", "styles", "bias")]
    gradients = backend("to_rgb_backward", grad, *plain, clamp, image is not None)
    assert result.is_contiguous()
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
    if image is None:
        assert gradients.pop().shape == (0,)
    assert_as_good([result, *gradients], run(values), run(to_double(values)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("clamp", [None, 0.8])
def test_as_good_as_the_reference(
    backend: Backend, shape: tuple[int, int, int, int], dtype: torch.dtype, clamp: float | None
) -> None:
    check_accuracy(backend, make(shape, dtype), clamp)


@pytest.mark.parametrize("missing", ["bias", "image", "both"])
def test_parts_that_are_not_there(backend: Backend, missing: str) -> None:
    values = make((2, 24, 6, 10))
    values.update(dict.fromkeys(["bias", "image"] if missing == "both" else [missing]))
    check_accuracy(backend, values, 1.0)


@pytest.mark.parametrize("shape", [(2, 5, 7, 9), (1, 32, 1, 33), (2, 16, 1, 1)], ids=str)
def test_odd_sizes_without_an_image(backend: Backend, shape: tuple[int, int, int, int]) -> None:
    check_accuracy(backend, {**make(shape, torch.bfloat16), "image": None}, 0.5)


def test_a_sample_in_several_rounds(backend: Backend) -> None:
    """More tiles than blocks of a sample."""
    check_accuracy(backend, {**make((1, 4, 2, 70000)), "image": None}, 0.5)


def test_other_layouts(backend: Backend) -> None:
    values = make((2, 16, 6, 8), torch.float16)
    expected = backend("to_rgb", *values.values(), None)[0]
    planes = {**values, "x": values["x"].contiguous(), "styles": values["styles"].T.contiguous().T}
    torch.testing.assert_close(backend("to_rgb", *planes.values(), None)[0], expected, **EXACT)
    offset = torch.empty(values["x"].numel() + 4, dtype=torch.float16)[4:].view(2, 6, 8, 16).permute(0, 3, 1, 2)
    check_accuracy(backend, {**values, "x": offset.copy_(values["x"])}, 1.0)


def test_an_empty_batch(backend: Backend) -> None:
    check_accuracy(backend, make((0, 8, 4, 6)))


def test_huge_styles_do_not_overflow(backend: Backend) -> None:
    values = make((2, 32, 4, 6), torch.float16)
    values["styles"] *= 1e6
    values["image"] *= 1e6
    check_accuracy(backend, values, size=1e-3)  # for grad_x grows with the styles


def test_nan_stays_where_it_is(backend: Backend) -> None:
    values = make((1, 8, 4, 4))
    values["x"][0, 2, 1, 3] = torch.nan
    (result,) = backend("to_rgb", *values.values(), 1.0)
    assert result[:, :, 1, 3].isnan().all()
    assert result.isnan().sum() == 3


def test_a_sample_does_not_depend_on_its_batch(backend: Backend) -> None:
    values = make((3, 16, 20, 20))
    grad = torch.randn(3, 3, 20, 20)

    def run(part: slice) -> list[Tensor]:
        x, weight, styles, bias, image = values.values()
        (result,) = backend("to_rgb", x[part], weight, styles[part], bias, image[part], 1.0)
        return [result, *backend("to_rgb_backward", grad[part], x[part], weight, styles[part], bias, 1.0, True)]

    together = run(slice(None))
    for i in range(3):
        for whole, alone in zip(together, run(slice(i, i + 1)), strict=True):
            torch.testing.assert_close(whole[i : i + 1], alone, **EXACT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(4, 8, 1, 1)}, r"weight has to be \[3,I,1,1\] = \[3,8,1,1\]; got \[4,8,1,1\]"),
        ({"image": torch.ones(1, 3, 4, 4)}, r"image has to be \[B,3,H/2,W/2\] = \[1,3,2,2\]; got \[1,3,4,4\]"),
        ({"styles": torch.ones(1, 8).double()}, r"styles has to be of dtype Float; got Double"),
        ({"x": torch.ones(1, 8, 5, 4)}, "even height and width"),
    ],
    ids=["weight", "image", "styles", "odd"],
)
def test_wrong_arguments_are_named(backend: Backend, change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match="to_rgb: .*" + message):
        backend("to_rgb", *{**make((1, 8, 4, 4)), **change}.values(), None)
