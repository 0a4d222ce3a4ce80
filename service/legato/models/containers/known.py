"""The names that checkpoints of StyleGAN2 hold, and what data each one stands for. Every other name is refused.

A name is data as well: `Global` never leads to the object of that name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from legato.models.containers.source import Source, excerpt
from legato.models.containers.tensors import Storage, StoredTensor, stored_tensor

MAX_PROTOCOL = 5

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DTYPES = {str(dtype): dtype for dtype in STORAGES.values()}
WHOLE_MODULE = ("torch.nn.", "__main__", "model", "models.", "training.", "networks", "stylegan")
TENSORFLOW = ("dnnlib.tflib", "tfutil", "network")


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes of a pickle, left in the file."""

    source: Source
    offset: int
    size: int


@dataclass(slots=True)
class PersistentObject:
    """An object of NVIDIA's torch_utils.persistence: what it was and held. The source code beside it is dropped."""

    class_name: str
    state: dict[Any, Any]


@dataclass(frozen=True, slots=True)
class Inert:
    """A value that no network needs (a device, a number of numpy): kept as its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Global:
    """A known name."""

    name: str

    @staticmethod
    def find(source: Source, module: str, name: str) -> Global:
        """Raises ModelFileError unless the name is a known one."""
        full = f"{module}.{name}"
        if full in CALLS or full in CLASSES or full in INERT or (module == "torch" and name in STORAGES):
            return Global(full)
        if module.startswith(TENSORFLOW) and name == "Network":
            raise source.refusal(
                "is a legacy TensorFlow pickle of NVIDIA's StyleGAN or StyleGAN2, which runs source code when it is "
                "loaded. If you trust it, convert it with legacy.py of NVlabs/stylegan2-ada-pytorch (--source, --dest) "
                "and give legato the result; StyleGAN1 networks cannot be used"
            )
        advice = (
            "It holds a whole Python object: save the state_dict() of the generator instead"
            if module.startswith(WHOLE_MODULE)
            else "Do not load it with other programs unless you trust where it came from"
        )
        raise source.refusal(
            f"asks for {excerpt(full)}, which is not among the names that a StyleGAN2 checkpoint needs; nothing was "
            f"executed. {advice}"
        )


def reduce(source: Source, function: Any, arguments: Any) -> Any:
    """What a call in the file stands for."""
    call = CALLS.get(function.name) if isinstance(function, Global) else None
    if call is None or type(arguments) is not tuple:
        raise source.refusal(f"calls {_told(function)}, which is data; nothing was executed. Fetch or save it again")
    return call(source, *arguments)


def construct(source: Source, cls: Any, arguments: Any) -> Any:
    """An object without its contents, which follow."""
    if not isinstance(cls, Global) or cls.name not in CLASSES or arguments != ():
        raise source.refusal(f"makes an object of {_told(cls)}; nothing was executed. Fetch or save it again")
    return {}


def build(source: Source, target: Any, state: Any) -> None:
    """Attributes of an object: a Namespace's are its contents, the versions that torch adds to a dict are dropped."""
    if isinstance(target, Inert):
        return
    if type(target) is not dict or type(state) is not dict or not all(type(key) is str for key in state):
        raise source.refusal(f"sets attributes of {_told(target)}, which has none; nothing was executed. Save it again")
    if "_metadata" not in state:
        target.update(state)


def _told(value: Any) -> str:
    return excerpt(value.name) if isinstance(value, Global | Inert) else f"a {type(value).__name__}"


def _ordered(source: Source, *pairs: Any) -> dict[Any, Any]:
    if not pairs:
        return {}
    if len(pairs) != 1 or type(pairs[0]) is not list:
        raise TypeError("pairs were wanted")
    found = {}
    for pair in pairs[0]:
        if type(pair) not in (list, tuple) or len(pair) != 2 or type(pair[0]) is not str:
            raise TypeError("pairs were wanted")
        found[pair[0]] = pair[1]
    return found


def _default(source: Source, *factory: Any) -> dict[Any, Any]:
    return {}


def _set(source: Source, *values: Any) -> set[Any]:
    if not values:
        return set()
    if len(values) != 1 or type(values[0]) is not list or not all(type(value) is str for value in values[0]):
        raise TypeError("a list of names was wanted")
    return set(values[0])


def _size(source: Source, shape: Any) -> Any:
    if type(shape) is not tuple:
        raise TypeError("a shape was wanted")
    return shape


def _rebuild_tensor(source: Source, storage: Any, first: Any, shape: Any, stride: Any, *ignored: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise source.damaged("a tensor in it has no storage")
    return stored_tensor(storage, first, shape, stride)


def _rebuild_parameter(source: Source, data: Any, *ignored: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise source.damaged("a parameter in it is not a tensor")
    return data


def _load_from_bytes(source: Source, blob: Any) -> Storage:
    from legato.models.containers.legacy import read_legacy  # it reads pickles, which come here

    if not isinstance(blob, Blob):
        raise source.damaged("a storage in it is not made of bytes")
    storage = read_legacy(source, blob.offset, blob.offset + blob.size)
    if not isinstance(storage, Storage):
        raise source.damaged("the bytes of a storage in it hold something else")
    return storage


def _persistent_object(source: Source, meta: Any) -> PersistentObject:
    if type(meta) is not dict or type(meta.get("class_name")) is not str or type(meta.get("state")) is not dict:
        raise source.damaged("an object of NVIDIA's persistence in it has no class or no state")
    return PersistentObject(meta["class_name"], meta["state"])


def _inert(name: str) -> Callable[..., Inert]:
    return lambda source, *ignored: Inert(name)


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": _default,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.storage._load_from_bytes": _load_from_bytes,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    **{
        name: _inert(name)
        for name in (
            "torch.device",
            "numpy.dtype",
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
            "_codecs.encode",
        )
    },
}
CLASSES = {"collections.OrderedDict", "argparse.Namespace", "dnnlib.util.EasyDict"}
INERT = {"builtins.dict", "builtins.list", "__builtin__.dict", "__builtin__.list", *DTYPES}
