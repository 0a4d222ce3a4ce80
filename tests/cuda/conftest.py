"""Where the tests of this folder run the CUDA kernels: built for the CPU, in two orders of threads, and on a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cuda.emulation import Emulator, build

ORDERS = {"ascending": 0, "shuffled": 20210}


class Backend:
    """Calls the CUDA kernel of an op, as built for the CPU or on a device, with tensors of the CPU."""

    def __init__(self, ops: Any, device: str) -> None:
        self._ops = ops
        self._device = device

    def __call__(self, op: str, *arguments: Any) -> list[Tensor]:
        """The results of the dispatcher's op, in the strides that the kernel gave them."""
        results = getattr(self._ops, op)(*(self._move(value, self._device) for value in arguments))
        return [self._move(result, "cpu") for result in (results if isinstance(results, tuple) else (results,))]

    @staticmethod
    def _move(value: Any, device: str) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    return Emulator(build())


@pytest.fixture(params=ORDERS)
def emulated(request: pytest.FixtureRequest, emulator: Emulator) -> Any:
    """torch.ops.legato_emulated: the CUDA kernels for tensors of the CPU, in each order of threads."""
    emulator.order(ORDERS[request.param])
    return emulator.ops


@pytest.fixture(params=[*ORDERS, pytest.param("cuda", marks=pytest.mark.cuda)])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The CUDA kernels, in each order of threads and on the GPU that the machine may have."""
    if request.param == "cuda":
        importlib.import_module("legato._C")
        yield Backend(torch.ops.legato, "cuda")
        return
    emulator: Emulator = request.getfixturevalue("emulator")
    emulator.order(ORDERS[request.param])
    yield Backend(emulator.ops, "cpu")
