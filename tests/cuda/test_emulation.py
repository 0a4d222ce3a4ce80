"""The emulation itself: it computes what a GPU would, and it notices what would go wrong there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cuda.emulation import Emulator
from tests.tolerances import EXACT

NO_FAULT, NO_BARRIER, NO_WAIT, OVERFLOW, PART_WARP = range(5)


def matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of small integers, so that every sum is exact."""
    return torch.randint(-8, 9, (16, 16)).to(dtype), torch.randint(-8, 9, (8, 16)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_tensor_cores(emulated: Any, dtype: torch.dtype, transposed: bool) -> None:
    a, b = matrices(dtype)
    c = emulated.emulation_selftest(a, b, NO_FAULT, transposed)
    torch.testing.assert_close(c, a.float() @ b.float().T, **EXACT)


@pytest.mark.parametrize("fault", [NO_BARRIER, NO_WAIT])
def test_a_missing_barrier_or_wait_shows(emulator: Emulator, fault: int) -> None:
    results = []
    for order in (0, 1):
        emulator.order(order)
        results.append(emulator.ops.emulation_selftest(*matrices(torch.float16), fault, False))
    assert any(result.isnan().all() for result in results)


@pytest.mark.parametrize(
    ("fault", "message"), [(OVERFLOW, "wrote outside of its shared memory"), (PART_WARP, "some threads end|some lanes")]
)
def test_mistakes_are_named(emulated: Any, fault: int, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        emulated.emulation_selftest(*matrices(torch.float16), fault, False)
    a, b = matrices(torch.float16)
    torch.testing.assert_close(  # and the next launch is whole again
        emulated.emulation_selftest(a, b, NO_FAULT, False), a.float() @ b.float().T, **EXACT
    )
