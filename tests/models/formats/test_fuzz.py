"""A short run of scripts/fuzz_formats.py, the same in every run; and every length at which a file may be cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from legato.errors import ModelFileError
from legato.models import load_generator
from scripts.fuzz_formats import mutate, outcome
from tests.models.formats.corpus import write_corpus

ROUNDS = 200
LOADABLE = ("nvidia.pkl", "rosinality_zip.pt", "rosinality_legacy.pt", "psp.pt", "state.safetensors", "own.safetensors")


def test_mutated_files_are_loaded_or_refused(tmp_path: Path) -> None:
    paths = write_corpus(tmp_path)
    originals = [path.read_bytes() for path in paths]
    chance, counts = random.Random(1), {"loaded": 0, "refused": 0}
    for number in range(ROUNDS):
        index = number % len(paths)
        victim = tmp_path / f"mutated{paths[index].suffix}"
        victim.write_bytes(mutate(originals[index], originals, chance))
        counts[outcome(victim)] += 1
    assert min(counts.values()) > 0


@pytest.mark.parametrize("name", LOADABLE)
def test_cut_files_are_refused(tmp_path: Path, name: str) -> None:
    write_corpus(tmp_path)
    raw, path = (tmp_path / name).read_bytes(), tmp_path / f"cut{Path(name).suffix}"
    load_generator(tmp_path / name)
    for length in {*range(64), *range(64, len(raw), max(len(raw) // 40, 1)), len(raw) - 1}:
        path.write_bytes(raw[:length])
        with pytest.raises(ModelFileError):
            load_generator(path)
