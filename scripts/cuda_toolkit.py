"""Where nvcc is and how legato calls it: what setup.py builds with and scripts/check_cuda.py checks with.

Imports the standard library alone, for setup.py uses it before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
BUDGET = CSRC / "cuda" / "budget.toml"
STANDARD = "-std=c++20"  # for the host compiler too: versions of torch differ in what they add of their own
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]  # 2.11; BuildExtension adds Py_LIMITED_API
NVCC_FLAGS = ["-O3", STANDARD, "--expt-relaxed-constexpr", "-DUSE_CUDA", *STABLE_ABI]


def find_cuda_home() -> Path | None:
    """The CUDA toolkit: CUDA_HOME, CUDA_PATH, the folder of nvcc, /usr/local/cuda; the first that can compile."""
    nvcc = shutil.which("nvcc")
    candidates = [
        os.environ.get("CUDA_HOME"),
        os.environ.get("CUDA_PATH"),
        Path(nvcc).resolve().parent.parent if nvcc else None,
        "/usr/local/cuda",
    ]
    for home in (Path(candidate) for candidate in candidates if candidate):
        if (home / "bin" / "nvcc").exists() and (home / "include" / "cuda_runtime.h").exists():
            return home
    return None


def read_targets(budget: Path = BUDGET) -> list[str]:
    """What the extension is compiled for, out of the budget file: "sm_80" is machine code, "compute_90" is PTX."""
    targets: list[str] = tomllib.loads(budget.read_text(encoding="utf-8"))["targets"]
    return targets


def gencode(target: str, *, code: str | None = None) -> str:
    """nvcc's option for a target; with `code`, what the target's PTX is assembled to."""
    return f"-gencode=arch=compute_{target.rpartition('_')[2]},code={code or target}"
