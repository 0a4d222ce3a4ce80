"""Builds the wheels and shows that they work where there is nothing but torch: no compiler, no other package.

    python scripts/check_wheel.py [FOLDER] [--from-scratch]

FOLDER holds wheels that are built already (`make wheel` puts them into dist). The empty environment links to the torch
that is installed here; with --from-scratch pip installs torch, then everything else that legato declares, and
`legato doctor` has to find it whole.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TAG = "cp311-abi3-linux"
MAX_MIB = 40
# What the extension may ask the loader for: torch's own libraries and the system's. No CUDA runtime, no libpython.
NEEDED = re.compile(
    r"lib(c10|torch|torch_cpu|stdc\+\+|m|gcc_s|c|dl|rt|pthread|gomp)\.so(\.\d+)*|ld-linux[\w-]*\.so\.\d"
)

PROBE = """
import shutil, sys, warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
import torch
import legato.ops as ops

assert Path(ops.__file__).is_relative_to(sys.prefix), ops.__file__
assert not any(map(shutil.which, ("cc", "c++", "g++", "gcc", "clang", "nvcc", "ninja"))), "there is a compiler"
assert len(sys.argv) > 1 or not any(map(find_spec, ("numpy", "grpc", "cv2"))), "there is more than torch"

close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-3)
x, weight, styles = torch.randn(2, 8, 8, 8), torch.randn(8, 8, 3, 3), torch.randn(2, 8, requires_grad=True)
y = ops.modulated_conv2d(x, weight, styles, up=2)
close(y, ops.modulated_conv2d_reference(x, weight, styles, up=2))
y.sum().backward()
assert styles.grad.isfinite().all()
image, flow = torch.rand(2, 3, 8, 8), torch.randn(2, 2, 8, 8)
for got, wanted in zip(ops.flow_warp(image, flow), ops.flow_warp_reference(image, flow), strict=True):
    close(got, wanted)
live = ops.live_backends()
assert "missing" not in live.values(), live
print(", ".join(f"{op}: {kind}" for op, kind in live.items()) + "; CUDA half: " + ops.cuda_half())
"""


class WheelError(Exception):
    """A wheel that is not as it has to be."""


def run(*command: str | Path, **variables: str) -> str:
    """The output of a command that has these variables too. Raises WheelError with all that it said if it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**environment, **variables},
    )
    if done.returncode:
        raise WheelError(f"{' '.join(map(str, command[:4]))} ...\n{done.stdout.strip()}")
    return done.stdout


def build(folder: Path) -> None:
    """Both wheels into `folder`, with the halves that the extension beside the sources has: its objects serve again."""
    half = importlib.import_module("legato.ops").cuda_half()
    for stale in (ROOT / "build").glob("lib*"):  # else modules that are gone from the sources would be packed
        shutil.rmtree(stale)
    options = {"LEGATO_CUDA": "0"} if half.startswith("not built") else {}
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # ninja lies there
    run(
        *pip, "--no-build-isolation", "--no-deps", "-w", folder, ROOT, ROOT / "clients" / "python", PATH=path, **options
    )


def find(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}-*.whl"))
    if len(found) != 1:
        raise WheelError(f"{folder} has to hold one wheel of {name}; it holds {[path.name for path in found]}")
    return found[0]


def inspect(wheel: Path, folder: Path) -> str:
    """What the wheel holds, in a line. Raises WheelError for a wrong tag, size, content or library."""
    if TAG not in wheel.name:
        raise WheelError(f"{wheel.name} has to be tagged {TAG}*: one file for every later Python")
    size = wheel.stat().st_size / 2**20
    if size > MAX_MIB:
        raise WheelError(f"{wheel.name} is {size:.1f} MiB; at most {MAX_MIB}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        libraries = [name for name in names if name.endswith(".so")]
        if libraries != ["legato/_C.abi3.so"]:
            raise WheelError(f"{wheel.name} has to hold legato/_C.abi3.so and no other library; got {libraries}")
        sources = {str(path.relative_to(ROOT / "service")) for path in (ROOT / "service" / "legato").rglob("*.py")}
        packed = {name for name in names if name.endswith(".py")}
        if sources != packed:
            raise WheelError(f"{wheel.name} does not hold the sources: {sorted(sources ^ packed)}")
        library = Path(archive.extract(libraries[0], folder))
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", library))
    strange = [name for name in needed if not NEEDED.fullmatch(name)]
    if strange:
        raise WheelError(f"{libraries[0]} needs {strange}, which a machine with torch may not have")
    return f"{wheel.name}: {size:.1f} MiB, library {library.stat().st_size / 2**20:.1f} MiB, needs {', '.join(needed)}"


def requirements_of(name: str, found: set[str] | None = None) -> set[str]:
    """`name` and everything that it asks for without an extra, as far as it is installed here."""
    found = set() if found is None else found
    try:
        requires = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return found
    if name in found:
        return found
    found.add(name)
    for requirement in requires:
        if "extra ==" not in requirement and (match := re.match(r"[\w.-]+", requirement)):
            requirements_of(match[0], found)
    return found


def make_environment(folder: Path, *, from_scratch: bool) -> Path:
    """An environment with torch alone; its Python."""
    venv.create(folder, with_pip=from_scratch, symlinks=True)
    python = folder / "bin" / "python"
    if from_scratch:
        pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
        run(
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *re.findall(r"^torch==.*", pins, re.MULTILINE),
        )
        return python
    packages = next(folder.glob("lib/python*/site-packages"))
    for name in requirements_of("torch"):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    return python


def install(wheel: Path, python: Path, *, from_scratch: bool) -> None:
    """The wheel alone, without what it declares; by pip, or unpacked where there is none."""
    if from_scratch:
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", wheel)
        return
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(next(python.parents[1].glob("lib/python*/site-packages")))


def check(folder: Path, work: Path, *, from_scratch: bool) -> None:
    """Prints what holds. Raises WheelError for what does not."""
    wheel = find(folder, "legato")
    print(inspect(wheel, work))
    python = make_environment(work / "environment", from_scratch=from_scratch)
    install(wheel, python, from_scratch=from_scratch)
    bare = {"PATH": str(work / "nothing"), "HOME": str(work)}
    print(f"with torch alone: {run(python, '-I', '-c', PROBE, **bare).strip()}")
    if from_scratch:
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, "-c", ROOT / "constraints.txt", "--find-links", folder, wheel, find(folder, "legato_client"))
        run(python, "-I", "-c", PROBE, "more", **bare)
        run(python, "-I", "-m", "legato", "doctor", **bare)
        print("with everything that it declares: legato doctor finds it whole")


def main(arguments: list[str] | None = None) -> int:
    """0 if the wheel works, else 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where the wheels lie (default: build them)")
    parser.add_argument("--from-scratch", action="store_true", help="install torch and all else by pip: minutes")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        try:
            if args.folder is None:
                build(work / "dist")
            check(args.folder or work / "dist", work, from_scratch=args.from_scratch)
        except WheelError as error:
            print(f"check_wheel: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
