"""Which backend serves an op, and what happens without one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from legato.errors import BackendUnavailable
from legato.ops import cuda_half, live_backends, require_backends

NATIVE = ("modulated_conv2d", "to_rgb", "flow_warp", "photometric_error")

WITHOUT_EXTENSION = """
import sys

sys.modules["legato._C"] = None  # what Python finds when there is no such file

import torch
from legato.errors import BackendUnavailable
from legato.ops import cuda_half, flow_warp, flow_warp_reference, live_backends, require_backends, upsample2d

image, flow = torch.ones(1, 3, 4, 4), torch.zeros(1, 2, 4, 4)
missing = dict.fromkeys(("modulated_conv2d", "to_rgb", "flow_warp", "photometric_error"), "missing")
assert live_backends() == {**missing, "upsample2d": "torch"}
for call in (lambda: flow_warp(image, flow), require_backends):
    try:
        call()
    except BackendUnavailable as error:
        print(error)
print(cuda_half())
flow_warp_reference(image, flow)
upsample2d(image)
"""

MANY_THREADS = """
from concurrent.futures import ThreadPoolExecutor

import torch
from legato.ops import flow_warp


def call(_):
    return flow_warp(torch.ones(1, 3, 4, 4), torch.zeros(1, 2, 4, 4))[1].sum().item()


with ThreadPoolExecutor(8) as pool:
    assert list(pool.map(call, range(16))) == [16.0] * 16
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    """In a fresh interpreter, which has not loaded the extension."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_cpu_serves_every_op() -> None:
    assert require_backends() == {**dict.fromkeys(NATIVE, "cpu"), "upsample2d": "torch"}
    assert live_backends() == require_backends("cpu")


def test_an_absent_backend_is_told() -> None:
    live = live_backends("xpu")
    assert live == {**dict.fromkeys(NATIVE, "missing"), "upsample2d": "torch"}
    with pytest.raises(BackendUnavailable, match="no xpu kernel"):
        require_backends("xpu")


def test_a_missing_extension_is_an_error_that_names_the_remedy() -> None:
    done = run(WITHOUT_EXTENSION)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 3
    assert all("legato._C" in line and "make setup" in line for line in told)
    assert told[2].startswith("missing: ")


@pytest.mark.parametrize(
    ("built", "kinds", "cuda", "told"),
    [
        ("not built: no nvcc", {"cpu"}, None, "not built: no nvcc"),
        ("built for sm_80", {"cpu", "cuda"}, None, "built for sm_80; idle: this torch is built for the CPU alone"),
        ("built for sm_80", {"cpu", "cuda"}, "13.0", "built for sm_80; idle: torch finds no GPU"),
        ("built for sm_80", {"cpu"}, None, "built for sm_80, without modulated_conv2d, flow_warp; idle: "),
    ],
)
def test_the_cuda_half_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch, built: str, kinds: set[str], cuda: str | None, told: str
) -> None:
    require_backends()
    monkeypatch.setattr("legato._C.cuda_half", built)
    monkeypatch.setattr("legato.ops._library._backends", dict.fromkeys(("modulated_conv2d", "flow_warp"), kinds))
    monkeypatch.setattr("legato.ops._library.NATIVE_OPS", ("modulated_conv2d", "flow_warp"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", cuda)
    assert cuda_half().startswith(told)


def test_importing_the_ops_loads_nothing() -> None:
    script = "import sys, legato.ops; sys.exit(any(name in sys.modules for name in ('legato._C', 'torch._dynamo')))"
    assert run(script).returncode == 0


def test_the_first_use_may_come_from_many_threads() -> None:
    done = run(MANY_THREADS)
    assert done.returncode == 0, done.stderr
