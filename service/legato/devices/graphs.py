"""Computations captured once for each size of a batch, and replayed: which graph serves a batch, and what has none.

What a graph is, is the business of the `capture` that is given; nothing here is of one kind of device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from legato.devices.device import Function

log = logging.getLogger(__name__)


class NotCaptured(Exception):
    """Why a computation is no graph."""


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """A graph: `replay` makes `outputs` of what stands in `inputs`. Both stay where they are."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    several: bool  # whether the function gave a tuple
    replay: Callable[[], None]


Capture = Callable[[Function, Sequence[Tensor]], Captured]  # raises NotCaptured


class Graphs:
    """The graphs of one device.

    A batch is served by the smallest graph that it fits into, the rows beyond it holding what they held before; one
    that is larger than every graph goes in parts. What could not be captured is called directly, and the log tells so.

    Args:
        capture: makes a graph of a function and of tensors that show its inputs' shapes.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._graphs: dict[tuple[Any, ...], dict[int, Captured]] = {}  # by name, shapes and dtypes; then by rows
        self._refused: dict[tuple[Any, ...], set[int]] = {}
        self._capturing = False

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Inside, every size of a batch that is met for the first time is captured."""
        self._capturing = True
        try:
            yield
        finally:
            self._capturing = False

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Of each name: how many sizes were captured, how many are called directly."""
        found: dict[str, tuple[int, int]] = {}
        for key, known in self._graphs.items():
            captured, refused = found.get(key[0], (0, 0))
            found[key[0]] = captured + len(known), refused + len(self._refused[key])
        return found

    def run(self, name: str, function: Function, *rows: Tensor) -> Any:
        """function(*rows), by a graph where there is one. As `Device.run`."""
        count = len(rows[0])
        if not count:
            return function(*rows)
        key = (name, *((tensor.shape[1:], tensor.dtype) for tensor in rows))
        known = self._graphs.setdefault(key, {})
        refused = self._refused.setdefault(key, set())
        if self._capturing and count not in known and count not in refused:
            try:
                # Not in inference mode: what a capture makes for itself could not be written to outside of it.
                with torch.inference_mode(False), torch.no_grad():
                    known[count] = self._capture(function, rows)
            except NotCaptured as error:
                self._refuse(name, count, refused, str(error))
        fitting = [size for size in known if size >= count]
        if fitting:
            return _replay(known[min(fitting)], rows)
        if not known or count in refused:
            if count not in refused:
                self._refuse(name, count, refused, "the warm-up did not meet it")
            return function(*rows)
        parts = zip(*(tensor.split(max(known)) for tensor in rows), strict=True)
        found = [self.run(name, function, *part) for part in parts]
        if isinstance(found[0], Tensor):
            return torch.cat(found)
        return tuple(torch.cat(pieces) for pieces in zip(*found, strict=True))

    def _refuse(self, name: str, count: int, refused: set[int], why: str) -> None:
        refused.add(count)
        fields = {"stage": name, "rows": count, "why": why}
        log.warning("no graph: this runs operation by operation, which is slower", extra={"fields": fields})


def _replay(graph: Captured, rows: Sequence[Tensor]) -> Any:
    count = len(rows[0])
    for mine, theirs in zip(graph.inputs, rows, strict=True):
        mine[:count].copy_(theirs)
    graph.replay()
    found = tuple(output[:count].clone() for output in graph.outputs)  # the next replay writes where this one did
    return found if graph.several else found[0]
