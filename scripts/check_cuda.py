"""Compiles every csrc/cuda/*.cu for every target and holds what ptxas reports of the kernels to csrc/cuda/budget.toml.

    python scripts/check_cuda.py [STEM...] [--list | --write]

Needs nvcc and no GPU; says so and passes where there is no nvcc. A kernel without an entry, an entry without a kernel
and a warning of the compiler are errors. ptxas does not know of shared memory that is asked for at the launch. What has
been compiled is kept in build/check_cuda.json, by a digest of everything that went into it: a second run is instant.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import sys
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it would find its own folder alone
from scripts.cuda_toolkit import BUDGET, ROOT, find_cuda_home, read_targets
from scripts.ptxas import CheckError, Report, Usage, examine

CACHE = ROOT / "build" / "check_cuda.json"
REGISTER_STEP = 8  # the hardware gives a thread its registers in steps of 8


@dataclass(frozen=True)
class Limit(Usage):
    """The most that the kernels of an entry may cost; `why` is asked for where they use local memory."""

    why: str = ""


Budget = Mapping[str, Mapping[str, Limit]]  # stem -> pattern -> limit


def read_budget(path: Path) -> Budget:
    """Raises CheckError for an entry that is not { registers, shared, spills, stack, why } or lacks what it needs."""
    limits: dict[str, dict[str, Limit]] = {}
    for stem, entries in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if stem == "targets":
            continue
        limits[stem] = {}
        for pattern, values in entries.items():
            place = f"{path.name}: [{stem}] {pattern}"
            unknown = sorted(values.keys() - {field.name for field in fields(Limit)})
            if unknown or "registers" not in values:
                names = ", ".join(field.name for field in fields(Limit))
                raise CheckError(f"{place} needs registers and may have of {names}; got {values}")
            limit = limits[stem][pattern] = Limit(**values)
            if (limit.spills or limit.stack) and not limit.why:
                raise CheckError(f'{place} allows local memory: say why, in why = "..."')
    return limits


def match(kernel: str, patterns: Iterable[str]) -> str | None:
    """The pattern that stands for a kernel: the longest that fits, one without "<" fitting all instantiations."""
    name = kernel.partition("<")[0]
    fitting = [text for text in patterns if fnmatch.fnmatchcase(kernel if "<" in text else name, text)]
    return max(fitting, key=len, default=None)


def judge(report: Report, budget: Budget, *, whole: bool = True) -> list[str]:
    """What is wrong, a line each. `whole`: the report holds all files, so that an entry without a kernel is wrong."""
    wrong: dict[str, None] = {}  # a set that keeps its order: a kernel is told once, not for each target
    served: set[tuple[str, str]] = set()
    for (stem, target), kernels in report.items():
        for kernel, used in kernels.items():
            pattern = match(kernel, budget.get(stem, {}))
            if pattern is None:
                continue
            served.add((stem, pattern))
            for field in fields(Usage):
                got, most = getattr(used, field.name), getattr(budget[stem][pattern], field.name)
                if got > most:
                    wrong[f"{stem}.cu: {kernel} for {target}: {field.name} {got}, budget {most}"] = None
    stems = {stem for stem, _ in report}
    for stem in sorted(stems):
        for pattern, used in group(report, stem, budget.get(stem, {})).items():
            if pattern not in budget.get(stem, {}):
                added = write_entry(pattern, Limit(), used)
                wrong[f"{stem}.cu: {pattern} has no entry in [{stem}]: add `{added}`"] = None
    for stem, entries in budget.items():
        for pattern in entries:
            if (whole or stem in stems) and (stem, pattern) not in served:
                wrong[f"{stem}.cu has no kernel {pattern}: take its entry out of [{stem}]"] = None
    return list(wrong)


def _largest(report: Report, stem: str, kernel: str) -> Usage:
    """Over all targets."""
    found = Usage()
    for (other, _), kernels in report.items():
        if other == stem:
            found = found.grown(kernels.get(kernel, Usage()))
    return found


def write_entry(pattern: str, old: Limit, used: Usage) -> str:
    """An entry with what is used, registers rounded up to what the hardware gives. Local memory is not for free: what
    the old entry allows stays, and more has to be written by hand.
    """
    registers = -(-used.registers // REGISTER_STEP) * REGISTER_STEP
    values = {"registers": registers, "shared": used.shared, "spills": old.spills, "stack": old.stack}
    parts = [f"{name} = {value}" for name, value in values.items() if value or name == "registers"]
    parts += [f'why = "{old.why}"'] if old.why else []
    name = pattern if re.fullmatch(r"\w+", pattern) else f'"{pattern}"'
    return f"{name} = {{ {', '.join(parts)} }}"


def group(report: Report, stem: str, old: Mapping[str, Limit]) -> dict[str, Usage]:
    """What the kernels of a file use, under the pattern that there is, else under the name that instantiations share.

    Those for double cost more and hurry nobody: they have an entry of their own, so as to hide nothing of the others.
    """
    kernels = sorted({kernel for (other, _), found in report.items() if other == stem for kernel in found})
    entries: dict[str, Usage] = {}
    for kernel in kernels:
        name = kernel.partition("<")[0]
        alone = all("double" in other for other in kernels if other.partition("<")[0] == name)
        pattern = match(kernel, old) or (f"{name}<*double*>" if "double" in kernel and not alone else name)
        entries[pattern] = _largest(report, stem, kernel).grown(entries.get(pattern, Usage()))
    return entries


def propose(report: Report, budget: Budget) -> str:
    """Tables for all kernels."""
    lines = []
    for stem in sorted({stem for stem, _ in report}):
        old = budget.get(stem, {})
        if entries := group(report, stem, old):
            lines += ["", f"[{stem}]"]
            lines += [write_entry(name, old.get(name, Limit()), used) for name, used in sorted(entries.items())]
    return "\n".join(lines) + "\n"


def show(report: Report) -> None:
    print(f"{'file':28} {'target':11} {'regs':>4} {'shared':>6} {'spills':>6} {'stack':>5}  kernel")
    for (stem, target), kernels in sorted(report.items()):
        for kernel, used in sorted(kernels.items()):
            numbers = f"{used.registers:4} {used.shared:6} {used.spills:6} {used.stack:5}"
            print(f"{stem:28} {target:11} {numbers}  {kernel}")


def main(arguments: list[str] | None = None, *, path: Path = BUDGET, cache: Path = CACHE) -> int:
    """0 within budget or skipped, 1 with the reasons on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stems", nargs="*", metavar="STEM", help="files of csrc/cuda to look at (default: all)")
    parser.add_argument("--list", action="store_true", help="print what every kernel uses")
    parser.add_argument("--write", action="store_true", help="rewrite the entries of budget.toml from what is used")
    args = parser.parse_args(arguments)
    begun = time.monotonic()
    files = {source.stem: source for source in sorted(path.parent.glob("*.cu"))}
    if unknown := sorted(set(args.stems) - set(files)):
        parser.error(f"no such files in {path.parent}: {', '.join(f'{stem}.cu' for stem in unknown)}")
    if args.write and args.stems:
        parser.error("--write is for all files at once")
    home = None if os.environ.get("LEGATO_CUDA") == "0" else find_cuda_home()
    if home is None:
        print(f"CUDA kernels: skipped: {'LEGATO_CUDA=0' if os.environ.get('LEGATO_CUDA') == '0' else 'no nvcc'}")
        return 0
    sources = [source for stem, source in files.items() if not args.stems or stem in args.stems]
    try:
        targets = read_targets(path)
        report, compiled = examine(home, sources, targets, cache)
        if args.write:
            head = re.split(r"^\[", path.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
            path.write_text(head.rstrip("\n") + "\n" + propose(report, read_budget(path)), encoding="utf-8")
        wrong = judge(report, read_budget(path), whole=not args.stems)
    except CheckError as error:
        print(f"CUDA kernels: {error}", file=sys.stderr)
        return 1
    if args.list:
        show(report)
    if wrong:
        print(f"CUDA kernels and {path.name} do not agree:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    count = len({(stem, name) for (stem, _), kernels in report.items() for name in kernels})
    cost = f"{compiled} compilations, {time.monotonic() - begun:.1f} s"
    print(f"CUDA kernels: {count} in {len(sources)} files for {', '.join(targets)}, all within budget ({cost})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
