"""safetensors files: a JSON header of names, dtypes, shapes and ranges, then the numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from legato.errors import ModelFileError
from legato.models.containers.source import FETCH_AGAIN, MAX_TENSORS, Source, excerpt
from legato.models.containers.tensors import MAX_DIMENSIONS, Storage, StoredTensor, stored_tensor

MAX_HEADER_BYTES = 4 * 2**20
METADATA = "__metadata__"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_headed(source: Source) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors by name, and the metadata. Raises ModelFileError."""
    if source.size < 8:
        raise _bad(source, "it is too short for a header")
    size = int.from_bytes(source.read(0, 8), "little")
    if size > MAX_HEADER_BYTES:
        raise _bad(source, f"it announces a header of {size:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    if size > source.size - 8:
        raise _bad(source, f"its header of {size:,} bytes is not all there")
    try:
        header = json.loads(source.read(8, size).decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _bad(source, f"its header is no JSON ({type(error).__name__})") from error
    if type(header) is not dict or len(header) > MAX_TENSORS:
        raise _bad(source, "its header is no table of tensors")
    metadata = header.pop(METADATA, {})
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise _bad(source, "its metadata are not texts")
    tensors = {name: _tensor(source, name, entry, 8 + size) for name, entry in header.items()}
    end = 8 + size
    for tensor in sorted(tensors.values(), key=lambda t: (t.storage.offset, t.nbytes)):
        if tensor.storage.offset != end:
            raise _bad(source, f"{excerpt(tensor.name)} does not begin where the tensor before it ends")
        end += tensor.nbytes
    if end != source.size:
        raise _bad(source, f"its tensors end at byte {end}, and it has {source.size} bytes")
    return tensors, metadata


def _bad(source: Source, text: str) -> ModelFileError:
    return source.refusal(
        f"cannot be read as safetensors ({text}): it is damaged, incomplete or of another format. {FETCH_AGAIN}"
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _tensor(source: Source, name: str, entry: Any, start: int) -> StoredTensor:
    entry = entry if type(entry) is dict else {}
    kind, shape, place = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if type(shape) is not list or type(place) is not list or len(place) != 2:
        raise _bad(source, f"{excerpt(name)} has no dtype, shape or range")
    first, last = place
    dtype = DTYPES.get(kind) if type(kind) is str else None
    if dtype is None:
        raise source.refusal(f"holds {excerpt(name)} as {excerpt(kind)}, which cannot be read. Save it as F32")
    whole = all(type(n) is int and n >= 0 for n in (*shape, first, last)) and len(shape) <= MAX_DIMENSIONS
    if not whole or last - first != math.prod(shape) * dtype.itemsize:
        raise _bad(source, f"{excerpt(name)} has a shape that does not fit its range")
    source.check_range(start + first, last - first)
    return stored_tensor(Storage(source, start + first, math.prod(shape), dtype), 0, tuple(shape), name=name)
