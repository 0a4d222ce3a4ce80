"""What the kernels of CUDA sources cost: compiled, not run, and read out of what ptxas reports.

Results are kept in a file by a digest of everything that went into them: source, headers, compiler, flags.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.util
import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from scripts.cuda_toolkit import CSRC, NVCC_FLAGS, gencode

PROCESSES = 2


@dataclass(frozen=True)
class Usage:
    """What a kernel costs: registers a thread, static shared bytes a block, spilled and stack bytes a thread."""

    registers: int = 0
    shared: int = 0
    spills: int = 0
    stack: int = 0

    def grown(self, other: Usage) -> Usage:
        """The larger of both, field by field."""
        return Usage(*(max(getattr(self, field.name), getattr(other, field.name)) for field in fields(Usage)))


Report = Mapping[tuple[str, str], Mapping[str, Usage]]  # (stem, target) -> kernel -> usage


class CheckError(Exception):
    """What keeps the check from being made: a file that does not compile, a budget file that cannot be read."""


def parse_ptxas(text: str) -> dict[str, Usage]:
    """Mangled name -> usage, out of what `-Xptxas -v` prints. A function that is called counts for its kernel."""
    found: dict[str, Usage] = {}
    kernel = ""
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '([^']+)'", line):
            kernel = match[1]
            found[kernel] = Usage()
            continue
        if not kernel:
            continue
        used = found[kernel]
        if match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, stores, loads = map(int, match.groups())
            used = used.grown(Usage(stack=stack, spills=stores + loads))
        if match := re.search(r"Used (\d+) registers", line):
            used = used.grown(Usage(registers=int(match[1])))
        if match := re.search(r"(\d+) bytes cumulative stack size", line):
            used = used.grown(Usage(stack=int(match[1])))
        if match := re.search(r"(\d+) bytes lmem", line):
            used = used.grown(Usage(stack=int(match[1])))
        if match := re.search(r"(\d+)(?:\+\d+)? bytes smem", line):
            used = used.grown(Usage(shared=int(match[1])))
        found[kernel] = used
    return found


def short_name(demangled: str) -> str:
    """`void legato::(anonymous namespace)::warp<float, 2>(float*)` -> `warp<float, 2>`."""
    text = re.sub(r"\w+::", "", demangled.replace("(anonymous namespace)::", ""))
    depth, begin = 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "<") - (letter == ">")
        if depth == 0 and letter == "(":
            text = text[:place]
            break
        if depth == 0 and letter == " ":
            begin = place + 1
    return text[begin:]


def demangle(names: Iterable[str]) -> dict[str, str]:
    """Mangled -> short name, by the c++filt that stands beside every compiler that nvcc can use."""
    names = list(names)
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return {name: short_name(line) for name, line in zip(names, done.stdout.splitlines(), strict=True)}


def compile_kernels(home: Path, source: Path, target: str) -> dict[str, Usage]:
    """Kernel -> usage; PTX is assembled for its own architecture. Raises CheckError with nvcc's words."""
    code = target.replace("compute_", "sm_")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(home / "bin" / "nvcc"), "-cubin", "-o", f"{folder}/out.cubin", "-Xptxas=-v"]
        command += ["-Werror=all-warnings", *NVCC_FLAGS, *include_flags(home), gencode(target, code=code), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    if done.returncode:
        raise CheckError(f"{source.name} does not compile for {target}:\n{told.strip()}")
    if loss := re.search(r".*Potential Performance Loss.*", told):
        raise CheckError(f"{source.name} for {target}: {loss[0].strip()}")
    usages = parse_ptxas(told)
    found: dict[str, Usage] = {}
    for mangled, name in demangle(usages).items():
        found[name] = usages[mangled].grown(found.get(name, Usage()))
    return found


def include_flags(home: Path) -> list[str]:
    """csrc, and the headers of others as such, so that their warnings are not ours."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        raise CheckError("the CUDA sources include headers of torch, and torch is not installed")
    return [f"-I{CSRC}", "-isystem", str(Path(torch.origin).parent / "include"), "-isystem", str(home / "include")]


def digest_all(home: Path, sources: list[Path], targets: list[str]) -> dict[tuple[Path, str], str]:
    """(source, target) -> digest of all that decides about its kernels."""
    headers = {*CSRC.glob("*.h"), *CSRC.glob("math/*.h")}
    headers.update(path for source in sources for path in source.parent.glob("*.*h"))
    nvcc = subprocess.run([str(home / "bin" / "nvcc"), "--version"], capture_output=True, check=True)
    torch = Path(include_flags(home)[2]).parent / "version.py"
    common = hashlib.sha256(nvcc.stdout + " ".join(NVCC_FLAGS).encode())
    for path in [Path(__file__), torch, *sorted(headers)]:
        common.update(path.name.encode() + path.read_bytes())
    found = {}
    for source in sources:
        for target in targets:
            digest = common.copy()
            digest.update(f"{source.name} {target}".encode() + source.read_bytes())
            found[source, target] = digest.hexdigest()
    return found


def examine(home: Path, sources: list[Path], targets: list[str], cache: Path) -> tuple[Report, int]:
    """The report of all sources for all targets, and how many compilations that took. Raises CheckError."""
    wanted = digest_all(home, sources, targets)
    kept = json.loads(cache.read_text()) if cache.exists() else {}
    places = {(source, target): f"{source} {target}" for source, target in wanted}
    jobs = [job for job, digest in wanted.items() if kept.get(places[job], {}).get("digest") != digest]
    failures = []
    with concurrent.futures.ThreadPoolExecutor(PROCESSES) as pool:
        running = {job: pool.submit(compile_kernels, home, *job) for job in jobs}
    for job, future in running.items():
        try:
            kernels = {name: asdict(usage) for name, usage in future.result().items()}
        except CheckError as error:
            failures.append(str(error))
        else:
            kept[places[job]] = {"digest": wanted[job], "kernels": kernels}
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(kept, indent=1))
    if failures:
        raise CheckError("\n".join(failures))
    report = {
        (source.stem, target): {name: Usage(**usage) for name, usage in kept[place]["kernels"].items()}
        for (source, target), place in places.items()
    }
    return report, len(jobs)
