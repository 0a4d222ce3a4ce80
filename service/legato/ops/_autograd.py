"""Eager autograd of the fused ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def eager(op: str, save: Callable[..., None], backward: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.ops.legato.OP`, differentiated as register_autograd would, without its bookkeeping of 0.1 ms a call.

    A compiled graph takes the registered autograd, and a second derivative the registered refusal.
    """

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                outputs = getattr(torch.ops.legato, op)(*arguments)
            save(ctx, arguments, outputs)
            return outputs

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            if torch.is_grad_enabled():
                return backward(ctx, *grads)
            with torch._C._AutoDispatchBelowAutograd():
                return backward(ctx, *grads)

    def call(*arguments: Any) -> Any:
        wanted = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)
        if wanted and not torch.compiler.is_compiling():
            return Fused.apply(*arguments)  # type: ignore[no-untyped-call]
        return getattr(torch.ops.legato, op)(*arguments)

    return call
