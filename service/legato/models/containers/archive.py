"""What torch.save writes since version 1.6: a zip archive of data.pkl, one entry a storage, and the order of bytes."""

from __future__ import annotations

from typing import Any

from legato.models.containers.legacy import storage_reference
from legato.models.containers.pickles import read_pickle
from legato.models.containers.source import Source
from legato.models.containers.tensors import Storage
from legato.models.containers.zips import read_directory


def read_archive(source: Source) -> Any:
    """The data of the archive's pickle. Raises ModelFileError."""
    entries = read_directory(source)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise source.refusal(
            "is a zip archive, but not one that torch.save wrote: it holds no data.pkl. Give the checkpoint itself"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if any(name.startswith((f"{folder}code/", f"{folder}constants.pkl")) for name in entries):
        raise source.refusal("is a TorchScript archive, which holds code. Save the generator's state_dict()")
    if f"{folder}byteorder" in entries and source.read(*entries[f"{folder}byteorder"])[:8] != b"little":
        raise source.refusal("was saved on a big-endian machine. Save it again on another one")

    def storage(reference: Any) -> Storage:
        key, dtype, length = storage_reference(source, reference)
        offset, size = entries.get(f"{folder}data/{key}", (0, -1))
        if size != length * dtype.itemsize:
            raise source.damaged(f"a storage of {length} numbers is not all there")
        return Storage(source, offset, length, dtype)

    offset, size = entries[pickles[0]]
    return read_pickle(source, offset, offset + size, storage)[0]
