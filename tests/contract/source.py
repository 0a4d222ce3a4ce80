"""The repository as data, for the contract tests: its files, its modules and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "service"
CLIENT = ROOT / "clients" / "python"
OWN_PACKAGES = ("legato", "legato_align", "legato_client", "legato_pb")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def python_files(*folders: Path) -> list[Path]:
    """Hand-written Python below `folders`, or everywhere in the repository."""
    if not folders:
        names = ("service", "clients/python", "tests", "scripts", "examples", "benchmarks")
        folders = tuple(ROOT / name for name in names)
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return [path for path in files if "_pb2" not in path.name and "build" not in path.relative_to(ROOT).parts]


def native_files() -> list[Path]:
    """C++ and CUDA sources and headers."""
    suffixes = {".cpp", ".h", ".cu", ".cuh"}
    return [path for path in sorted((ROOT / "csrc").rglob("*")) if path.suffix in suffixes]


def module_name(path: Path) -> str:
    """The dotted name under which a file of one of the two distributions is imported."""
    base = SERVICE if path.is_relative_to(SERVICE) else CLIENT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything that a file imports, at its top, inside functions, and for type checking.

    `from a import b` gives `a.b`, for b may be a module.
    """
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno
