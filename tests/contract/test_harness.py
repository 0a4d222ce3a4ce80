"""The test harness does what it promises: a GPU that was promised, poisoned memory, repeatable randomness."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import SEED
from tests.contract.source import ROOT

CUDA_TEST = """
import pytest

@pytest.mark.cuda
def test_on_the_device():
    pass
"""


@pytest.mark.parametrize(("required", "outcome"), [("0", "1 skipped"), ("1", "1 error")])
def test_cuda_tests_skip_only_where_no_device_was_promised(tmp_path: Path, required: str, outcome: str) -> None:
    sample = tmp_path / "test_sample.py"
    sample.write_text(CUDA_TEST)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "tests.conftest", str(sample)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "LEGATO_REQUIRE_CUDA": required}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert outcome in done.stdout.splitlines()[-1], done.stdout


def test_unwritten_memory_is_nan() -> None:
    assert torch.empty(3).isnan().all()
    assert torch.empty_like(torch.ones(3)).isnan().all()


@pytest.mark.parametrize("run", ["once", "again"])
def test_every_test_begins_with_the_same_random_state(run: str) -> None:
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(SEED)), run
    assert np.random.rand() == np.random.RandomState(SEED).rand(), run  # noqa: NPY002
    assert random.random() == random.Random(SEED).random(), run
