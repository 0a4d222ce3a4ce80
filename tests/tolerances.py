"""Every numeric tolerance of the tests, each with the reason for its size; a contract test allows them nowhere else.

Use: `torch.testing.assert_close(actual, expected, **EXACT)`; numpy's assert_allclose and gradcheck take the same two.
"""

from __future__ import annotations

from typing import TypedDict


class Tolerance(TypedDict):
    """|actual - expected| <= atol + rtol * |expected|."""

    rtol: float
    atol: float


EXACT = Tolerance(rtol=0.0, atol=0.0)  # the same arithmetic in the same order
