"""An NVIDIA GPU: graphs that share a memory pool, transfers on streams of their own, times by events.

Not run on a GPU yet. Whatever a graph gives is compared once with what the same computation gives without it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legato.devices.device import Device, Function, Wait
from legato.devices.failures import in_words
from legato.devices.graphs import Captured, Graphs, NotCaptured

WARM_UPS = 3  # before a capture: kernels are loaded, workspaces allocated, constants derived
DISAGREES = 0.1  # |graph - direct| / |direct|; rounding and the order of sums stay far below, a wrong graph does not


@dataclass(frozen=True, slots=True, eq=False)
class _Mark:
    event: torch.cuda.Event
    host: float  # seconds, as time.perf_counter


class CudaDevice(Device):
    """One GPU. Work is queued on a stream of its own; `fetch` and `seconds` wait for it, and nothing else does.

    Pinned memory is torch's, which keeps what was freed and does not give it out again before its transfer is over:
    of frames that go up and answers that come down there are always as many buffers as are under way.
    """

    ahead = True
    pads = True

    def __init__(self, place: torch.device) -> None:
        super().__init__(place)
        self._compute, self._up, self._down = (torch.cuda.Stream(place) for _ in range(3))
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs = Graphs(self._capture)

    def enter(self) -> None:
        torch.cuda.set_device(self.place)
        torch.cuda.synchronize(self.place)  # weights and state were written on another stream
        torch.cuda.set_stream(self._compute)

    def run(self, name: str, function: Function, *rows: Tensor) -> Any:
        return self._graphs.run(name, function, *rows)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        with self._graphs.capturing():
            yield

    def prepared(self) -> Mapping[str, tuple[int, int]]:
        return self._graphs.counts()

    def upload(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Through pinned memory, on a stream of its own: it does not wait for what is being computed."""
        staged = torch.empty(len(images), *images[0].shape, dtype=torch.uint8, pin_memory=True)
        np.stack(images, out=staged.numpy())
        compute = torch.cuda.current_stream(self.place)
        with torch.cuda.stream(self._up):
            found = staged.to(self.place, non_blocking=True)
        compute.wait_stream(self._up)
        found.record_stream(compute)
        return found

    def fetch(self, *tensors: Tensor) -> Wait:
        """Into pinned memory, on a stream of its own: what is computed next does not wait for it."""
        self._down.wait_stream(torch.cuda.current_stream(self.place))
        with torch.cuda.stream(self._down):
            found = []
            for tensor in tensors:
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                found.append(host.copy_(tensor, non_blocking=True))
                tensor.record_stream(self._down)
            done = torch.cuda.Event()
            done.record(self._down)

        def wait() -> list[Tensor]:
            done.synchronize()
            return found

        return wait

    def mark(self) -> _Mark:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.place))
        return _Mark(event, time.perf_counter())

    def seconds(self, began: _Mark, ended: _Mark) -> float:
        """The device's own seconds, or the host's where it took longer to prepare the work than the device to do it."""
        ended.event.synchronize()
        return float(max(began.event.elapsed_time(ended.event) / 1e3, ended.host - began.host))

    def relieve(self) -> None:
        torch.cuda.synchronize(self.place)
        torch.cuda.empty_cache()

    def usable(self) -> bool:
        try:
            torch.cuda.synchronize(self.place)
            return bool(torch.ones(1, device=self.place).item())
        except RuntimeError:
            return False

    def _capture(self, function: Function, rows: Sequence[Tensor]) -> Captured:
        """The graph of function(*rows). Raises NotCaptured where there can be none, OutOfMemoryError."""
        inputs = [tensor.clone() for tensor in rows]
        outer = torch.cuda.current_stream(self.place)
        self._compute.wait_stream(outer)
        graph = torch.cuda.CUDAGraph()
        try:
            # The backward pass stays on this thread, so that nothing but the capture happens meanwhile.
            with torch.autograd.set_multithreading_enabled(False):
                with torch.cuda.stream(self._compute):
                    for _ in range(WARM_UPS):
                        expected = function(*inputs)
                torch.cuda.synchronize(self.place)
                # Other threads of a server may do what a capture would otherwise forbid them.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"):
                    outputs = function(*inputs)
            with torch.cuda.stream(self._compute):
                graph.replay()
            torch.cuda.synchronize(self.place)
        except RuntimeError as error:
            torch.cuda.set_stream(outer)  # a capture that fails leaves its own one behind
            self._pool = torch.cuda.graph_pool_handle()  # of which nobody knows what the failed one did to it
            if isinstance(error, torch.OutOfMemoryError):
                raise
            if isinstance(error.__context__, torch.OutOfMemoryError):
                raise error.__context__ from None
            if not self.usable():
                raise
            raise NotCaptured(f"{type(error).__name__}: {in_words(error.__context__ or error)}") from error
        several = isinstance(outputs, tuple)
        found, wanted = (outputs, expected) if several else ((outputs,), (expected,))
        gap = max(_gap(a, b) for a, b in zip(found, wanted, strict=True))
        if not gap <= DISAGREES:
            raise NotCaptured(f"it gives other numbers than without a graph: {gap:.2g} of their size")
        return Captured(inputs, found, several, graph.replay)


def _gap(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|, 0 where both are 0."""
    gap, size = (found.double() - wanted.double()).norm(), wanted.double().norm()
    return float(gap / size.clamp_min(torch.finfo(torch.float64).tiny))
