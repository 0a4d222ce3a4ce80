"""What holds for every test: its own random state, poisoned memory, one thread, and no GPU test that passes unseen."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
import torch

SEED = 20210

# Examples are the same in every run: a failure that nobody can repeat helps nobody. Machines stall, so no deadline.
hypothesis.settings.register_profile("legato", derandomize=True, deadline=None)
hypothesis.settings.load_profile("legato")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips `cuda` tests where there is no GPU; fails them where LEGATO_REQUIRE_CUDA=1 promised one."""
    if item.get_closest_marker("cuda") is None or torch.cuda.is_available():
        return
    if os.environ.get("LEGATO_REQUIRE_CUDA") == "1":
        pytest.fail("LEGATO_REQUIRE_CUDA=1 promises a CUDA device, but torch finds none", pytrace=False)
    pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """The user's own LEGATO_* settings reach no test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LEGATO_") and name != "LEGATO_REQUIRE_CUDA"]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty holds NaN, so that a kernel which leaves an element unwritten cannot pass by luck.

    torch fills memory only while it is asked for deterministic algorithms; warn_only, because that is not the point.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> Iterator[None]:
    """Small tensors on few cores: a thread pool spends its time spinning. Code that sets its own count still may."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def random_state() -> Iterator[None]:
    """Every test begins with the same random state and leaves none of its own behind."""
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    torch.manual_seed(SEED)
    yield
    random.setstate(python)
    np.random.set_state(legacy)  # noqa: NPY002
    torch.set_rng_state(cpu)
