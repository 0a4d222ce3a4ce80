"""Files made to do harm: each is refused with a message, nothing of it is executed, memory stays bounded."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.models.formats import attack
from tests.models.formats.hostile import PICKLES, Hostile
from tests.models.formats.hostile_files import FILES, SAFETENSORS, STATES, ZIPS

ALL = [*PICKLES, *ZIPS, *SAFETENSORS, *STATES, *FILES]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What load_generator and inspect said of each file, in a process with 512 MiB to spare."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, case in enumerate(ALL):
        case.write(folder / f"{number:03}{case.suffix}")
    done = subprocess.run([sys.executable, attack.__file__, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [path.name for path in folder.iterdir() if "canary" in path.name], "a file was executed"
    results: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])["results"]
    return results


def test_names_differ() -> None:
    assert len({case.name for case in ALL}) == len(ALL) >= 40


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_refused_with_a_message(case: Hostile, told: dict[str, list[str]]) -> None:
    loading, inspecting = told[f"{ALL.index(case):03}{case.suffix}"]
    assert re.search(case.words, loading), loading
    assert len(loading) < 1000
    assert "escaped" not in inspecting, inspecting
