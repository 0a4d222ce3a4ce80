"""How the tests of the ops measure a kernel against its reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tests.tolerances import FUSED_FLOOR, FUSED_RATIO

Values = Mapping[str, Tensor | None]
Results = Sequence[Tensor]


def precise(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def to_double(values: Values) -> dict[str, Tensor | None]:
    return {name: None if value is None else value.detach().double() for name, value in values.items()}


def root_mean_square(tensor: Tensor) -> float:
    return tensor.double().square().mean().sqrt().item() if tensor.numel() else 0.0


def relative_error(actual: Tensor, exact: Tensor) -> float:
    return root_mean_square(actual.double() - exact) / max(root_mean_square(exact), 1e-30)


def with_gradients(f: Callable[..., Tensor], values: Values, wanted: Sequence[str], grad: Tensor) -> list[Tensor]:
    """f(**values) and the gradients of its inner product with `grad` to the arguments `wanted`."""
    leaves = {name: value.detach().requires_grad_() for name in wanted if (value := values[name]) is not None}
    result = f(**{**values, **leaves})
    gradients = torch.autograd.grad(result, list(leaves.values()), grad.to(result.dtype))
    return [result.detach(), *gradients]


def assert_as_good(fused: Results, reference: Results, exact: Results) -> None:
    """err(fused) <= 2 err(reference in the same dtype) + floor, for the result and every gradient."""
    for index, (a, b, truth) in enumerate(zip(fused, reference, exact, strict=True)):
        assert a.shape == truth.shape
        assert a.dtype == b.dtype
        assert a.isfinite().all(), f"result {index} holds NaN or infinity"
        allowed = FUSED_RATIO * relative_error(b, truth) + FUSED_FLOOR[str(b.dtype).removeprefix("torch.")]
        error = relative_error(a, truth)
        assert error <= allowed, f"result {index}: error {error:.2e}, allowed {allowed:.2e}"
