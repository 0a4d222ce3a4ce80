"""Builds csrc/cuda/*.cu for the CPU (cuda_runtime.h in this folder says what that covers) as torch.ops.legato_emulated.

An object for each source, named by a digest of all that goes into it, below build/emulation: nothing is compiled twice.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

from tests.contract.source import ROOT

HERE = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "emulation"
FLAGS = ["-std=c++20", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DPy_LIMITED_API=0x030a0000"]


def sources() -> list[Path]:
    return [
        CSRC / "library.cpp",
        *sorted((CSRC / "cuda").glob("*.cu")),
        HERE.parent / "selftest.cu",
        HERE / "fibers.cpp",
    ]


def headers() -> list[Path]:
    return sorted(path for folder in (CSRC, HERE) for path in folder.rglob("*") if path.suffix in {".h", ".cuh"})


def build() -> Path:
    """The shared library of this state of the sources. RuntimeError with the compiler's words if it fails."""
    BUILD.mkdir(parents=True, exist_ok=True)
    include = [HERE, CSRC, *cpp_extension.include_paths(), sysconfig.get_paths()["include"]]
    compiler = [os.environ.get("CXX", "g++"), *FLAGS, *STABLE_ABI, *(f"-I{path}" for path in include)]
    common = digest(" ".join(map(str, compiler)), torch.__version__, *(path.read_text() for path in headers()))

    def compile_one(source: Path) -> Path:
        target = BUILD / f"{source.stem}_{digest(common, source.read_text())}.o"
        prelude = [] if source.name == "fibers.cpp" else ["-include", "registration.h"]
        produce([*compiler, *prelude, "-x", "c++", "-c", str(source)], target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources()))
    library = BUILD / f"legato_emulated_{digest(*(path.name for path in objects))}.so"
    folders = [f"-L{path}" for path in cpp_extension.library_paths()]
    produce([compiler[0], "-shared", *map(str, objects), *folders, "-ltorch", "-ltorch_cpu", "-lc10"], library)
    return library


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def produce(command: list[str], target: Path) -> None:
    """Run `command -o target` unless it is there; complete or not at all, should two do it at once."""
    if target.exists():
        return
    partial = target.with_name(f"{os.getpid()}_{target.name}")
    done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    os.replace(partial, target)


class Emulator:
    """The ops of the emulated build, and the order in which it runs threads."""

    def __init__(self, library: Path) -> None:
        torch.ops.load_library(library)
        self.ops = torch.ops.legato_emulated
        self._order = ctypes.CDLL(str(library)).legato_emulation_order
        self._order.argtypes = [ctypes.c_ulong]

    def order(self, seed: int) -> None:
        """0: threads, warps and blocks run in ascending order; 1: descending; any other: shuffled by it."""
        self._order(seed)
