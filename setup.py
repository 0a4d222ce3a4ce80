"""Builds `legato._C`: the fused ops, on LibTorch's stable ABI. Everything else about the package is in pyproject.toml.

One abi3 file serves Python >= 3.10 and torch >= 2.11, so the sources include the stable headers alone. CUDA sources are
compiled where nvcc is found, also beside a CPU build of torch; LEGATO_CUDA=1 demands them and LEGATO_CUDA=0 leaves them
out. Without them the extension holds its CPU half, and says so. LEGATO_EXTENSION=0 leaves all of it for later: an
editable install builds in a folder that it throws away, `setup.py build_ext --inplace` keeps its objects.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from torch.utils import cpp_extension

sys.path.insert(0, str(Path(__file__).resolve().parent))  # a build by pip does not do it
from scripts.cuda_toolkit import CSRC, NVCC_FLAGS, ROOT, STABLE_ABI, STANDARD, find_cuda_home, gencode, read_targets


def find_sources(*patterns: str) -> list[str]:
    """Paths relative to the root, as setuptools wants them, in an order that does not depend on the disk."""
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in CSRC.glob(pattern))


def choose_cuda(sources: list[str]) -> tuple[Path | None, str]:
    """The toolkit to compile `sources` with, None for the CPU half alone; and what `legato doctor` says of it.

    SystemExit if LEGATO_CUDA=1 cannot be met.
    """
    wish = os.environ.get("LEGATO_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"LEGATO_CUDA is 0 (never), 1 (required) or unset (where nvcc is found); got {wish!r}")
    home = find_cuda_home()
    if wish == "0":
        reason = "LEGATO_CUDA=0"
    elif not sources:
        reason = "no .cu file in csrc/cuda"
    elif home is None:
        reason = "no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda"
    else:
        print(f"legato: building the CPU and CUDA halves of the extension with {home}")
        targets = os.environ.get("TORCH_CUDA_ARCH_LIST") or ", ".join(read_targets())
        return home, f"built for {targets}"
    if wish == "1":
        raise SystemExit(f"LEGATO_CUDA=1 asks for the CUDA half of the extension, but there is {reason}")
    print(f"legato: building the CPU half of the extension alone: {reason}")
    return None, f"not built: {reason}"


def build_extension() -> Extension:
    cpu, cuda = find_sources("*.cpp", "cpu/*.cpp"), find_sources("cuda/*.cu")
    home, told = choose_cuda(cuda)
    cxx = ["-O3", "-g0", STANDARD, "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter", *STABLE_ABI]
    cxx += ["-fno-math-errno", "-fno-trapping-math"]  # else roots and comparisons are not vectorized
    cxx.append(f'-DLEGATO_CUDA_HALF="{told}"')  # legato._C.cuda_half
    nvcc = [*NVCC_FLAGS, "-Xcompiler=-fvisibility=hidden"]
    libraries, include_dirs, link = [], [str(CSRC)], ["-Wl,--exclude-libs,ALL"]
    if home is None:
        cuda = []
    else:
        # CUDAExtension would link libtorch_cuda, which a CPU build of torch lacks: the runtime is linked in instead.
        cpp_extension.CUDA_HOME = str(home)
        if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
            nvcc += [gencode(target) for target in read_targets()]
        cxx.append("-DUSE_CUDA")
        include_dirs.append(str(home / "include"))
        libraries = [str(path) for path in (home / "lib64", home / "lib") if path.is_dir()]
        link = ["-Wl,-Bstatic", "-lcudart_static", "-Wl,-Bdynamic", "-ldl", "-lrt", "-lpthread", *link]
        link += ["-Wl,--no-as-needed", "-ltorch"]
    return cpp_extension.CppExtension(
        "legato._C",
        sources=cpu + cuda,
        depends=find_sources("*.h", "math/*.h", "cpu/*.h", "cuda/*.cuh", "cuda/budget.toml"),
        include_dirs=include_dirs,
        library_dirs=libraries,
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        extra_link_args=link,
        py_limited_api=True,
    )


setup(
    ext_modules=[] if os.environ.get("LEGATO_EXTENSION") == "0" else [build_extension()],
    cmdclass={"build_ext": cpp_extension.BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
