"""One op, one stem: the same name in csrc, in legato.ops and in tests/ops, with a reference of the same signature."""

from __future__ import annotations

import inspect
import re

import pytest

import legato.ops
from tests.contract.source import ROOT, SERVICE, native_files, relative

STEMS = sorted(path.stem for path in (ROOT / "csrc" / "cpu").glob("*.cpp"))
CUDA_STEMS = sorted(path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu"))


def op_of(stem: str) -> str:
    """The op of a CUDA source: its own stem, or that of which it is a part, as modulated_conv2d_bf16."""
    return max((op for op in STEMS if stem == op or stem.startswith(f"{op}_")), key=len, default=stem)


def test_there_are_ops() -> None:
    assert {"flow_warp", "modulated_conv2d"} <= set(STEMS)


def test_schemas_stand_on_one_screen() -> None:
    texts = {relative(path): path.read_text(encoding="utf-8") for path in native_files()}
    defining = [name for name, text in texts.items() if re.search(r"\bSTABLE_TORCH_LIBRARY\(", text)]
    assert defining == ["csrc/library.cpp"]


def test_sources_include_the_stable_headers_alone() -> None:
    """Anything else of torch ties the built file to one version of it."""
    pattern = re.compile(r'#include\s+[<"]((?:torch|ATen|c10)/[^>"]+)[>"]')
    stable = ("torch/csrc/stable/", "torch/headeronly/", "torch/csrc/inductor/aoti_torch/c/")
    wrong = [
        f"{relative(path)}: {header}"
        for path in native_files()
        for header in pattern.findall(path.read_text(encoding="utf-8"))
        if not header.startswith(stable)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("stem", sorted({*STEMS, *map(op_of, CUDA_STEMS)}))
def test_an_op_has_one_stem_everywhere(stem: str) -> None:
    assert stem in STEMS, f"csrc/cuda/{stem}.cu has no csrc/cpu/{stem}.cpp"
    assert (SERVICE / "legato" / "ops" / f"{stem}.py").exists()
    assert (ROOT / "tests" / "ops" / f"test_{stem}.py").exists()


@pytest.mark.parametrize("stem", STEMS)
def test_reference_has_the_same_signature(stem: str) -> None:
    fused, reference = getattr(legato.ops, stem), getattr(legato.ops, f"{stem}_reference")
    assert inspect.signature(fused) == inspect.signature(reference)
