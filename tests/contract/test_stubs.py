"""The committed stubs are what the proto says today."""

from __future__ import annotations

from pathlib import Path

from legato_pb import inversion_pb2
from scripts.generate_stubs import STUBS, generate


def test_stubs_follow_the_proto(tmp_path: Path) -> None:
    fresh = {path.name: path.read_text(encoding="utf-8") for path in generate(tmp_path)}
    committed = {path.name: path.read_text(encoding="utf-8") for path in STUBS.glob("*_pb2*") if path.is_file()}
    drifted = sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))
    assert len(fresh) == 4
    assert not drifted, f"run `make proto`: {drifted} are not what protos/legato/v1 gives"


def test_wire_package_is_versioned() -> None:
    """The Python name of the stubs must not reach the wire."""
    assert inversion_pb2.DESCRIPTOR.package == "legato.v1"
    service = inversion_pb2.DESCRIPTOR.services_by_name["InversionService"]
    assert service.full_name == "legato.v1.InversionService"
