"""modulated_conv2d in float32 on the CPU: large maps in tiles with fewer products, small ones as dot products."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from legato.ops import modulated_conv2d
from tests.ops.compare import with_gradients
from tests.ops.test_modulated_conv2d import check_accuracy, make, tensors
from tests.tolerances import COMPILED, EXACT

pytestmark = pytest.mark.usefixtures("device")

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {  # B, I, O, H, W, up, k
    "partial-tiles": (1, 16, 24, 17, 19, 1, 3),
    "partial-tiles-up": (1, 20, 33, 17, 18, 2, 3),
    "partial-panels": (3, 37, 41, 13, 11, 1, 3),
    "partial-panels-up": (3, 37, 41, 13, 11, 2, 3),
    "many-tiles": (1, 17, 40, 50, 53, 1, 3),  # the weight is transformed once for all blocks of them
    "many-tiles-up": (1, 40, 17, 50, 53, 2, 3),
    "batch": (5, 64, 32, 24, 24, 1, 3),
    "batch-up": (5, 64, 32, 24, 24, 2, 3),
    "long-sums": (1, 512, 16, 16, 16, 1, 3),
    "long-sums-up": (1, 512, 16, 18, 18, 2, 3),
    "long-sums-back": (1, 16, 512, 16, 16, 1, 3),
    "long-sums-back-up": (1, 16, 512, 18, 18, 2, 3),
    "one-row": (1, 32, 32, 1, 400, 1, 3),  # mostly border: not in tiles
    "dot-products": (1, 64, 40, 5, 7, 1, 3),
    "dot-products-up": (2, 64, 40, 5, 7, 2, 3),
    "dot-products-of-one-pixel": (1, 128, 8, 1, 1, 1, 3),
    "long-dot-products": (1, 512, 16, 4, 4, 1, 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_as_good_as_the_reference(name: str, dtype: torch.dtype) -> None:
    check_accuracy(make(SHAPES[name], dtype, each_noise=name.startswith("batch")), clamp=20.0)


@pytest.mark.parametrize("name", ["partial-panels", "partial-panels-up", "dot-products"])
def test_any_layout(name: str) -> None:
    values = make(SHAPES[name])
    y = modulated_conv2d(**values)
    strange = {
        **values,
        "x": torch.stack([values["x"]] * 2, -1).flatten(-2)[..., ::2],
        "weight": values["weight"].permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
        "styles": values["styles"].t().contiguous().t(),
    }
    check_accuracy(strange)
    torch.testing.assert_close(modulated_conv2d(**strange), y, **COMPILED)


@pytest.mark.parametrize("up", [1, 2])
def test_without_demodulation_noise_and_bias(up: int) -> None:
    values = make((2, 16, 32, 20, 20, up, 3))
    check_accuracy({**values, "q": None, "noise": None, "bias": None}, slope=1.0, gain=1.0)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("size", [1e-12, 1e15])
def test_styles_of_any_size(size: float, up: int) -> None:
    values = make((2, 16, 16, 20, 20, up, 3))
    values["styles"] = values["styles"] * size
    values["x"] = values["x"] / size if size < 1 else values["x"]
    check_accuracy(values)


@pytest.mark.parametrize("up", [1, 2])
def test_nan_stays_near_its_pixel(up: int) -> None:
    values = make((3, 16, 16, 24, 24, up, 3))
    clean = modulated_conv2d(**values)
    values["x"][1, 3, 10, 11] = torch.nan
    y = modulated_conv2d(**values)
    torch.testing.assert_close(y[::2], clean[::2], **COMPILED)
    assert y[1, :, 10 * up, 11 * up].isnan().all()
    assert y[1, :, :, : 4 * up].isfinite().all()
    assert y[1, :, 20 * up :].isfinite().all()


@pytest.mark.parametrize("name", ["partial-panels", "partial-panels-up", "many-tiles", "many-tiles-up", "dot-products"])
def test_threads_do_not_change_a_bit(name: str) -> None:
    values = make(SHAPES[name])
    given, threads = tensors(values), torch.get_num_threads()
    grad = torch.randn(modulated_conv2d(**values).shape)
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(with_gradients(partial(modulated_conv2d, up=values["up"]), given, ("x", "styles"), grad))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", ["batch", "many-tiles"])
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    values = make((4, *SHAPES[name][1:]))
    y = modulated_conv2d(**values)
    one: dict[str, Any] = {**values, "x": values["x"][2:3], "styles": values["styles"][2:3]}
    torch.testing.assert_close(modulated_conv2d(**one), y[2:3], **EXACT)


OTHER_MACHINE = """
import sys, torch
from tests.ops.test_modulated_conv2d import check_accuracy, make
from legato.ops import modulated_conv2d
torch.manual_seed(1)
torch.set_num_threads(1)
for shape in [(1, 40, 33, 17, 19, 1, 3), (1, 40, 33, 17, 18, 2, 3), (1, 16, 32, 50, 50, 1, 3), (1, 64, 40, 5, 7, 1, 3)]:
    values = make(shape)
    check_accuracy(values)
    print(modulated_conv2d(**values).double().sum().item())
"""


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="needs AVX2")
def test_on_other_machines(device: str) -> None:
    """ATEN_CPU_CAPABILITY limits the instructions, as it does torch's: without AVX2 there are neither tiles nor dot
    products, and results are as good."""
    if device != "cpu":
        pytest.skip("of the CPU")
    sums = {}
    for capability in ("default", "avx2"):
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "CUDA_VISIBLE_DEVICES": ""}
        run = subprocess.run(
            [sys.executable, "-c", OTHER_MACHINE],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        sums[capability] = run.stdout.split()
    assert all(a != b for a, b in zip(*sums.values(), strict=True)), "the same bits: the kernels were not switched"
