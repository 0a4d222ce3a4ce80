"""Long computations in small parts, with a pause after each in which somebody else may compute on the same thread.

Whoever has to share a thread runs a method `with pausing(between, rows)`. Inside, what goes row by row through a
network or a loss does so `rows` rows at a time, and `between` is called after every part, forward and backward. No
part holds more than `rows` rows up, however long a clip is. Without it everything goes at once, as it would anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Pauses:
    between: Callable[[], object]
    rows: int

    def take(self) -> None:
        """A pause. What is computed in it knows of none."""
        token = _current.set(None)
        try:
            self.between()
        finally:
            _current.reset(token)


_current: ContextVar[_Pauses | None] = ContextVar("legato_pauses", default=None)


@contextmanager
def pausing(between: Callable[[], object], rows: int) -> Iterator[None]:
    """Inside, long computations call `between` after every part of `rows` rows; what it raises ends them.

    Backward passes run on this thread as well, so that all pauses are on it.
    """
    if rows < 1:
        raise ValueError(f"a part has at least 1 row; got {rows}")
    token = _current.set(_Pauses(between, rows))
    try:
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        _current.reset(token)


def pause() -> None:
    """A pause, where somebody asked for them."""
    if (pauses := _current.get()) is not None:
        pauses.take()


def in_rows(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """function(*rows), whose rows do not touch each other, in parts with pauses where somebody asked for them.

    `rows` all have as many rows in their first axis as the result. Backward, the parts come in the opposite order.
    """
    pauses = _current.get()
    if pauses is None or not len(rows[0]):
        return function(*rows)
    parts = zip(*(tensor.split(pauses.rows) for tensor in rows), strict=True)
    return torch.cat([_with_pause(function(*part), pauses) for part in parts])


def _with_pause(part: Tensor, pauses: _Pauses) -> Tensor:
    if part.requires_grad:
        paused: Tensor = _Pause.apply(part, pauses)  # type: ignore[no-untyped-call]
        return paused
    pauses.take()
    return part


class _Pause(torch.autograd.Function):
    """The identity, with a pause after the part before it, and one before that part's backward pass."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, pauses: _Pauses) -> Tensor:
        ctx.pauses = pauses
        pauses.take()
        return part.view_as(part)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        ctx.pauses.take()
        return gradients[0], None
