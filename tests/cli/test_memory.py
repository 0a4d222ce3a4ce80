"""What a server frees stays with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from legato.memory import keep_freed_memory

COUNT = """
import resource, sys, threading

from legato.memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def work():
    for round in range(12):
        if round == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"1" * 40_000_000  # more than glibc ever keeps by itself
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_freed_pages_are_not_faulted_in_again() -> None:
    faults = {
        kind: int(subprocess.run([sys.executable, "-c", COUNT, kind], capture_output=True, check=True).stdout)
        for kind in ("kept", "returned")
    }
    assert faults["kept"] < faults["returned"] / 5, faults  # 10 times 40 MB, in pages of 4 KB or of 2 MB


def test_a_system_without_glibc_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not keep_freed_memory()
