"""The CUDA sources built for the CPU, run in several orders of their threads."""

from __future__ import annotations

import pytest

from tests.cuda.emulation import Emulator, build

ORDERS = {"ascending": 0, "descending": 1, "shuffled": 20210}


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    return Emulator(build())


@pytest.fixture(params=ORDERS, scope="session")
def emulated(request: pytest.FixtureRequest, emulator: Emulator):  # type: ignore[no-untyped-def]  # torch.ops has no type
    """torch.ops.legato_emulated: the CUDA kernels for tensors of the CPU, in each order of threads."""
    emulator.order(ORDERS[request.param])
    return emulator.ops
