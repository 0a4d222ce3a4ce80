"""upsample2d against zeros inserted and the published filter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from legato.ops import upsample2d
from tests.tolerances import OP_GRADIENT, SAME_FORMULA


def insert_and_filter(image: Tensor) -> Tensor:
    """Zeros after every pixel, a border of 2 before and 1 after, [1,3,3,1] x [1,3,3,1] / 64 with gain 4."""
    batch, channels, height, width = image.shape
    sparse = image.new_zeros(batch * channels, 1, 2 * height, 2 * width)
    sparse[:, 0, ::2, ::2] = image.flatten(0, 1)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=image.dtype) / 8
    kernel = (4 * taps[:, None] * taps).view(1, 1, 4, 4)
    return F.conv2d(F.pad(sparse, (2, 1, 2, 1)), kernel).view(batch, channels, 2 * height, 2 * width)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 3, 5, 2), (1, 1, 1, 1), (0, 3, 4, 4)], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_is_the_published_filter(shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    image = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=memory_format)
    torch.testing.assert_close(upsample2d(image), insert_and_filter(image), **SAME_FORMULA)


def test_a_constant_keeps_its_value_inside_and_fades_at_the_border() -> None:
    result = upsample2d(torch.ones(1, 1, 4, 4))[0, 0]
    assert (result[1:-1, 1:-1] == 1).all()
    assert result[0, 0] == 0.75**2


def test_gradients() -> None:
    image = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(upsample2d, image, **OP_GRADIENT)
    assert torch.autograd.gradgradcheck(upsample2d, image, **OP_GRADIENT)


def test_wrong_images_are_named() -> None:
    with pytest.raises(ValueError, match=r"upsample2d: image has to be \[B,C,H,W\]; got \[3, 4, 4\]"):
        upsample2d(torch.ones(3, 4, 4))
    with pytest.raises(TypeError, match=r"upsample2d: image has to be floating point; got torch\.uint8"):
        upsample2d(torch.ones(1, 3, 4, 4, dtype=torch.uint8))
