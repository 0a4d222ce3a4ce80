"""The wheel works where there is nothing but torch, and one that would not is refused."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from scripts import check_wheel
from scripts.check_wheel import NEEDED, WheelError, inspect
from tests.contract.source import SERVICE

NAME = "legato-0.1.0-cp311-abi3-linux_x86_64.whl"


def pack(wheel: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return wheel


def sources() -> list[str]:
    return [str(path.relative_to(SERVICE)) for path in (SERVICE / "legato").rglob("*.py")]


@pytest.mark.slow
def test_the_wheel_works_where_there_is_only_torch(capsys: pytest.CaptureFixture[str]) -> None:
    """legato.ops is imported and every op runs, with no compiler in PATH."""
    assert check_wheel.main([]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert f"{NAME}: " in told
    assert "with torch alone: upsample2d: torch, " in told


def test_a_wheel_for_one_python_is_refused(tmp_path: Path) -> None:
    wheel = pack(tmp_path / NAME.replace("abi3", "cp311"), [])
    with pytest.raises(WheelError, match="has to be tagged cp311-abi3"):
        inspect(wheel, tmp_path)


def test_a_wheel_without_the_extension_or_with_more_is_refused(tmp_path: Path) -> None:
    for more in ([], ["legato/_C.abi3.so", "legato/libcudart.so"]):
        with pytest.raises(WheelError, match=r"has to hold legato/_C\.abi3\.so and no other"):
            inspect(pack(tmp_path / NAME, [*sources(), *more]), tmp_path)


def test_stale_modules_are_refused(tmp_path: Path) -> None:
    wheel = pack(tmp_path / NAME, [*sources(), "legato/gone.py", "legato/_C.abi3.so"])
    with pytest.raises(WheelError, match=r"gone\.py"):
        inspect(wheel, tmp_path)


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_libraries_that_a_machine_may_lack_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_wheel, "run", lambda *command: " (NEEDED)  Shared library: [libcudart.so.13]")
    wheel = pack(tmp_path / NAME, [*sources(), "legato/_C.abi3.so"])
    with pytest.raises(WheelError, match=r"needs \['libcudart\.so\.13'\]"):
        inspect(wheel, tmp_path)


@pytest.mark.parametrize(
    ("library", "good"),
    [
        ("libtorch_cpu.so", 1),
        ("libc.so.6", 1),
        ("ld-linux-x86-64.so.2", 1),
        ("libtorch_cuda.so", 0),
        ("libpython3.11.so", 0),
    ],
)
def test_what_a_library_may_need(library: str, good: bool) -> None:
    assert bool(NEEDED.fullmatch(library)) == good
