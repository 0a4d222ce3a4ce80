"""Checks of arguments that name the op, the argument, what was wanted and what was given; csrc/check.h has its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def precise_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of what has to stay exact beside `tensor` (styles, flow): float64 beside float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def check_image(op: str, argument: str, tensor: Tensor, axes: str) -> None:
    """Raise unless `tensor`, the first argument of `op`, is floating point with four axes."""
    if tensor.dim() != 4:
        raise ValueError(f"{op}: {argument} has to be {axes}; got {list(tensor.shape)}")
    if not tensor.is_floating_point():
        raise TypeError(f"{op}: {argument} has to be floating point; got {tensor.dtype}")


def check_tensor(
    op: str,
    argument: str,
    tensor: Tensor,
    sizes: Sequence[int | None],
    axes: str,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Raise ValueError unless `tensor` has these sizes (None: any) and device, TypeError unless this dtype.

    `axes` is how the wanted shape reads in the message, such as "[B,I,H,W]".
    """
    shape = tensor.shape
    if len(shape) != len(sizes) or any(w is not None and s != w for s, w in zip(shape, sizes, strict=True)):
        wanted = ",".join("*" if w is None else str(w) for w in sizes)
        raise ValueError(f"{op}: {argument} has to be {axes} = [{wanted}]; got {list(shape)}")
    if tensor.device != device:
        raise ValueError(
            f"{op}: {argument} has to be on {device}, the device of the first argument; got {tensor.device}"
        )
    if tensor.dtype != dtype:
        raise TypeError(f"{op}: {argument} has to be of dtype {dtype}; got {tensor.dtype}")


def check_constants(op: str, differentiable: str, **constants: Tensor | None) -> None:
    """Raise ValueError if a gradient to one of the `constants` would be recorded: the fused kernel has none."""
    for name, tensor in constants.items() if torch.is_grad_enabled() else ():
        if tensor is not None and tensor.requires_grad:
            raise ValueError(
                f"{op}: {name} requires grad, but the fused kernel is differentiable in {differentiable} alone; call "
                f"{op}_reference, or detach {name}"
            )
