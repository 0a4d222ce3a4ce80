"""What users may import is pinned: a name that goes or comes is a decision, and a line in the changelog."""

from __future__ import annotations

import json

from scripts.public_names import public_names
from tests.contract.source import ROOT

PINNED = ROOT / "tests" / "contract" / "public_names.json"


def test_public_names_are_the_pinned_ones() -> None:
    pinned, actual = json.loads(PINNED.read_text(encoding="utf-8")), public_names()
    gone = {f"{module}.{name}" for module, names in pinned.items() for name in set(names) - set(actual.get(module, []))}
    new = {f"{module}.{name}" for module, names in actual.items() for name in set(names) - set(pinned.get(module, []))}
    assert actual == pinned, (
        f"gone: {sorted(gone)}; new: {sorted(new)}; if that is meant, run "
        "`python scripts/public_names.py > tests/contract/public_names.json` and tell it in CHANGELOG.md"
    )
