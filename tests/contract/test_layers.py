"""Imports go one way, the session side holds no torch, and the client holds nothing of the server."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.contract.source import CLIENT, SERVICE, imports, python_files, relative

# Lowest first; a part may import its own stage and those below. A new part of legato is given its place here.
STAGES: list[set[str]] = [
    {"__init__"},
    {"errors"},
    {"types", "settings"},
    {"background", "calls", "config", "costs", "logs", "memory", "options", "pressure", "spare", "threads"},
    {"images"},
    {"alignment"},
    {"repository", "slots", "turns"},
    {"devices", "ops"},
    {"models"},
    {"losses", "synthetic"},
    {"inversion", "editing", "restoration"},
    {"flights", "warping", "deltas"},
    {"answering"},
    {"weights"},
    {"pipeline"},
    {"clips", "engine_options", "stages", "warmup"},
    {"engine"},
    {"lookahead", "scheduler"},
    {"session", "work"},
    {"store", "metrics", "served", "models_served"},
    {"train", "evaluation", "offline"},
    {"rpc"},
    {"benchmarks"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
RANK = {part: rank for rank, stage in enumerate(STAGES) for part in stage}
TORCH_FREE = [
    "types",
    "errors",
    "options",
    "config",
    "metrics",
    "session",
    "scheduler",
    "store",
    "background",
    "calls",
    "work",
    "images",
    "slots",
    "threads",
    "turns",
    "repository",
    "served",
    "models_served",
    "alignment",
]
LEGATO = SERVICE / "legato"


def part_of(name: str) -> str:
    """The part of legato that a dotted name belongs to: `legato.ops.flow_warp` -> `ops`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in RANK else "__init__"


def edges() -> list[tuple[str, str, str]]:
    """(importing part, imported part, where) for every import inside legato that leaves its part."""
    found = []
    for path in python_files(LEGATO):
        source = path.relative_to(LEGATO).parts[0].removesuffix(".py")
        for name, line in imports(path):
            if name.split(".")[0] == "legato" and (target := part_of(name)) != source:
                found.append((source, target, f"{relative(path)}:{line} imports {name}"))
    return found


def test_every_part_has_a_place() -> None:
    children = [path for path in LEGATO.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))]
    unplaced = sorted({path.stem for path in children} - set(RANK))
    assert not unplaced, f"give {unplaced} a place in STAGES"


def test_imports_go_one_way() -> None:
    back = [where for source, target, where in edges() if RANK[target] > RANK[source]]
    assert not back, "imports that go back:\n" + "\n".join(back)


def test_parts_of_one_stage_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for source, target, _ in edges():
        graph.setdefault(source, set()).add(target)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("part", TORCH_FREE)
def test_imports_no_torch(part: str) -> None:
    """Neither itself nor through what it imports: the part is imported where torch cannot be."""
    assert (LEGATO / f"{part}.py").exists(), f"legato/{part}.py is gone: take it out of TORCH_FREE"
    code = f"import sys; sys.modules['torch'] = None; import legato.{part}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_client_imports_neither_torch_nor_the_server() -> None:
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in python_files(CLIENT)
        for name, line in imports(path)
        if name.split(".")[0] in {"torch", "legato"}
    ]
    assert not wrong, "\n".join(wrong)


def test_opencv_is_for_alignment_alone_and_alignment_for_both_sides() -> None:
    """The client works without OpenCV; what finds faces knows neither client nor wire: the server uses it, too."""
    align = CLIENT / "legato_align"
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in python_files(CLIENT)
        for name, line in imports(path)
        if name.split(".")[0] in ({"legato_client", "legato_pb"} if path.is_relative_to(align) else {"cv2"})
    ]
    assert not wrong, "\n".join(wrong)


def test_server_does_not_import_the_client() -> None:
    """Only what measures a server from outside does."""
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in python_files(LEGATO)
        if not path.is_relative_to(LEGATO / "benchmarks")
        for name, line in imports(path)
        if name.split(".")[0] == "legato_client"
    ]
    assert not wrong, "\n".join(wrong)
