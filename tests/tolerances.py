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

# Models. Fractions of the image's standard deviation, unless it says otherwise.
PUBLISHED_IMAGE = 1e-4  # float32 against another implementation's float32, summed in another order; measured 7e-6
BFLOAT16_IMAGE = 0.05  # root mean square; 8 bits a product, some dozen layers that do not all err the same way
GENERATOR_ROUNDING = Tolerance(rtol=1e-4, atol=1e-5)  # float32 sums of some hundred unit-normal products, reordered
UNIT_MOMENT = 0.1  # a second moment estimated from some thousand correlated samples
DOUBLE_GRADIENT = Tolerance(rtol=1e-3, atol=1e-5)  # central differences of step 1e-6 in float64
HALF_STORAGE = 0.02  # largest pixel; weights rounded to 11 bits, a dozen layers

# Media.
VIDEO_LEVELS = Tolerance(rtol=0.0, atol=3.0)  # of 255; a flat gray through 4:2:0 at quality 14..20
