"""What torch.save wrote before version 1.6, and still writes for storages inside other pickles: no archive, but five
pickles (magic number, version, facts of the machine, the object, names of storages), then each storage's length and
numbers."""

from __future__ import annotations

import struct
from typing import Any

from legato.models.containers.known import STORAGES, Global
from legato.models.containers.pickles import read_pickle
from legato.models.containers.source import Source
from legato.models.containers.tensors import Storage

MAGIC = 0x1950A86A20F9469CFC6C
MAGIC_BYTES = b"\x8a\x0a" + MAGIC.to_bytes(10, "little")  # at byte 2, after the protocol
VERSION = 1001
MAX_ELEMENTS = 2**40


def read_legacy(source: Source, start: int, end: int) -> Any:
    """The data in bytes [start, end) of the file. Raises ModelFileError."""
    magic, at = read_pickle(source, start, end)
    version, at = read_pickle(source, at, end)
    machine, at = read_pickle(source, at, end)
    if magic != MAGIC or version != VERSION:
        raise source.damaged("a part of it should be of torch's older format and is not")
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise source.refusal("was saved on a big-endian machine. Save it again on another one")
    storages: dict[str, Storage] = {}
    content, at = read_pickle(source, at, end, lambda reference: _storage(source, storages, reference))
    keys, at = read_pickle(source, at, end)
    if type(keys) is not list or sorted(keys, key=str) != sorted(storages):
        raise source.damaged("the names of its storages are not those that its tensors ask for")
    for key in keys:
        storage = storages[key]
        (length,) = struct.unpack("<q", source.read(at, 8))
        size = storage.length * storage.dtype.itemsize
        if length != storage.length or at + 8 + size > end:
            raise source.damaged(f"a storage of {storage.length} numbers is not all there")
        storage.offset = at + 8
        at += 8 + size
    return content


def _storage(source: Source, storages: dict[str, Storage], reference: Any) -> Storage:
    key, dtype, length = storage_reference(source, reference)
    storage = storages.setdefault(key, Storage(source, 0, length, dtype))
    if (storage.dtype, storage.length) != (dtype, length):
        raise source.damaged("one of its storages is of two kinds")
    return storage


def storage_reference(source: Source, reference: Any) -> tuple[str, Any, int]:
    """Name, dtype and length of a storage that a pickle refers to. Raises ModelFileError."""
    if type(reference) is not tuple or not 5 <= len(reference) <= 6 or reference[0] != "storage":
        raise source.refusal(
            "refers to data outside of the pickle that is no storage of a tensor. Save it again with torch"
        )
    _, kind, key, _, length = reference[:5]
    dtype = STORAGES.get(kind.name.removeprefix("torch.")) if isinstance(kind, Global) else None
    if dtype is None or type(key) is not str or type(length) is not int or not 0 <= length < MAX_ELEMENTS:
        raise source.damaged("a storage in it has no kind, name or length")
    if len(reference) == 6 and reference[5] is not None:
        raise source.refusal("holds views of storages, as torch before 0.4 did. Load and save it again with torch")
    return key, dtype, length
