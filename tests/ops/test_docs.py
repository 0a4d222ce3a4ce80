"""docs/ops.md tells of every op, and its example runs."""

from __future__ import annotations

import re

import legato.ops
from tests.contract.source import ROOT

TEXT = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")


def test_every_op_is_told_of() -> None:
    ops = {name for name in legato.ops.__all__ if not name.endswith("_reference")}
    missing = sorted(name for name in ops - {"require_backends"} if f"`{name}" not in TEXT)
    assert not missing


def test_the_example_runs() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    exec(code, {})


def test_files_that_it_names_exist() -> None:
    named = re.findall(r"`((?:csrc|scripts|benchmarks|tests)/[\w./]*)`", TEXT)
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name).exists()]
