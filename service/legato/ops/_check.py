"""Checks of arguments that name the op, the argument, what was wanted and what was given. `csrc/check.h` words its own alike."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_tensor(
    op: str,
    argument: str,
    tensor: Tensor,
    wanted: Sequence[int | None],
    axes: str,
    like: Tensor,
) -> None:
    """Raise unless `tensor` has the sizes `wanted` (None: any), and the dtype and device of `like`.

    `axes` is how the wanted shape reads in the message, such as "[B,I,H,W]".
    """
    shape = tensor.shape
    if len(shape) != len(wanted) or any(w is not None and s != w for s, w in zip(shape, wanted, strict=True)):
        sizes = ",".join("*" if w is None else str(w) for w in wanted)
        raise ValueError(f"{op}: {argument} has to be {axes} = [{sizes}]; got {list(shape)}")
    if tensor.device != like.device:
        raise ValueError(f"{op}: {argument} has to be on the device of the first argument, {like.device}; got {tensor.device}")
    if tensor.dtype != like.dtype:
        raise TypeError(f"{op}: {argument} has to be of the dtype of the first argument, {like.dtype}; got {tensor.dtype}")


def check_floating(op: str, argument: str, tensor: Tensor) -> None:
    """Raise unless `tensor` holds floating-point numbers."""
    if not tensor.is_floating_point():
        raise TypeError(f"{op}: {argument} has to be floating point; got {tensor.dtype}")
