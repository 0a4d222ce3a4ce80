"""What every result carries: which code, on which machine, with which versions, when."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import legato

PACKAGES = ("legato", "torch", "numpy", "grpcio", "protobuf", "opencv-python-headless", "simplejpeg")


class Stamp(TypedDict):
    """commit ends in "+" where the checkout had changes; cpus are those that this process may use."""

    commit: str
    time: str
    machine: str
    cpu: str
    cpus: int
    memory_gib: float
    gpu: str | None
    python: str
    versions: dict[str, str]


def stamp() -> Stamp:
    """The stamp of this process. Imports no torch: what is measured may be another process."""
    return Stamp(
        commit=commit(),
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu(),
        cpus=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        gpu=_gpu(),
        python=platform.python_version(),
        versions={name: version(name) for name in PACKAGES},
    )


def version(package: str) -> str:
    """Of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit(folder: Path | None = None) -> str:
    """Of the checkout at `folder` (default: legato's), "+" at the end where tracked files differ from it; "unknown"
    where there is none: an environment that lies inside some other checkout is not one."""
    root = folder or Path(legato.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    head, changes = _output("git", "-C", str(root), "rev-parse", "HEAD"), ""
    if head:
        changes = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return (head or "unknown") + ("+" if changes else "")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _gpu() -> str | None:
    return _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or None


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
