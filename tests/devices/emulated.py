"""A device that works as a GPU does, on the CPU: computations are captured once and replayed on the same tensors, and
what a captured computation must not do is an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from legato.devices import Captured, Device, Function, Graphs, NotCaptured

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")  # for what a device has computed


class HostRead(Exception):
    """A computation asked the device for a number, which no capture survives."""


class Unread(TorchDispatchMode):
    """Inside, nothing may wait for what was computed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in WAITS:
            raise HostRead(str(func))
        return func(*args, **(kwargs or {}))


class EmulatedDevice(Device):
    """Captures and replays, and computes ahead of who waits for it. `refused`: names that cannot be captured."""

    ahead = True
    pads = True

    def __init__(self, refused: Sequence[str] = ()) -> None:
        super().__init__(torch.device("cpu"))
        self.graphs = Graphs(capture)
        self.refused = refused
        self.ran: list[tuple[str, int]] = []  # name and rows of every call

    def run(self, name: str, function: Function, *rows: Tensor) -> Any:
        self.ran.append((name, len(rows[0])))
        if name in self.refused:
            return self.graphs.run(name, refusing(function), *rows)
        return self.graphs.run(name, function, *rows)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        with self.graphs.capturing():
            yield

    def prepared(self) -> Mapping[str, tuple[int, int]]:
        return self.graphs.counts()

    def fetch(self, *tensors: Tensor) -> Any:
        copies = [tensor.clone() for tensor in tensors]
        return lambda: copies


def capture(function: Function, rows: Sequence[Tensor]) -> Captured:
    """Later calls replay this function on these tensors, whatever function and tensors they come with."""
    inputs = [row.clone() for row in rows]
    function(*inputs)  # constants are derived before a capture
    outputs, several = called(function, inputs)

    def replay() -> None:
        for mine, theirs in zip(outputs, called(function, inputs)[0], strict=True):
            mine.copy_(theirs)

    return Captured(inputs, outputs, several, replay)


def called(function: Function, inputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], bool]:
    try:
        with Unread():  # type: ignore[no-untyped-call]
            found = function(*inputs)
    except HostRead as error:
        raise NotCaptured(str(error)) from error
    return (found, True) if isinstance(found, tuple) else ((found,), False)


def refusing(function: Function) -> Function:
    def read(*rows: Tensor) -> Any:
        assert rows[0].isfinite().all()
        return function(*rows)

    return read
