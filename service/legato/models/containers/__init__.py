"""Files of tensors that nobody vouches for, read as data: zip and legacy torch files, pickles, safetensors.

`read_content` looks at the first bytes, reads the structure and leaves the tensors in the file. No code of a file is
ever run: see `pickles`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from legato.models.containers.archive import read_archive
from legato.models.containers.headed import read_headed
from legato.models.containers.known import Inert, PersistentObject
from legato.models.containers.legacy import MAGIC_BYTES, read_legacy
from legato.models.containers.pickles import read_pickle
from legato.models.containers.source import Source, excerpt
from legato.models.containers.tensors import StoredTensor

__all__ = ["Content", "Inert", "PersistentObject", "Source", "StoredTensor", "excerpt", "flatten", "read_content"]

PICKLES = (".pkl", ".pickle", ".pt", ".pth")
OTHERS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file that it stands for. Run `git lfs pull`"),
    (b"\x1f\x8b", "is compressed by gzip. Unpack it first"),
    (b"\xfd7zXZ", "is compressed by xz. Unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive. Unpack it first"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes them; a StyleGAN2 checkpoint of PyTorch was wanted"),
    (b"\x93NUMPY", "is an array of numpy; a StyleGAN2 checkpoint of PyTorch was wanted"),
)


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a file: plain data whose tensors are `StoredTensor`."""

    source: Source
    container: str
    tree: Any
    metadata: Mapping[str, str] = field(default_factory=dict)  # of safetensors


def read_content(source: Source) -> Content:
    """The structure of an open file. Raises ModelFileError, which says what the file is and what to do."""
    start = source.read(0, min(source.size, 512))
    if start.startswith(b"PK\3\4"):
        return Content(source, "zip archive of torch.save", read_archive(source))
    if start[2:].startswith(MAGIC_BYTES):
        return Content(source, "older file of torch.save", read_legacy(source, 0, source.size))
    if start[8:9] == b"{" or source.path.suffix == ".safetensors":
        tensors, metadata = read_headed(source)
        return Content(source, "safetensors", tensors, metadata)
    if not start:
        raise source.damaged("it is empty")
    for magic, told in OTHERS:
        if start.startswith(magic):
            raise source.refusal(told)
    if start.lstrip()[:1] == b"<":
        raise source.refusal("is a page of the web, not a checkpoint: the download went wrong. Fetch it again")
    if start[257:262] == b"ustar":
        raise source.refusal("is a tar archive. Unpack it first, or save it again with a torch of 2020 or later")
    if start[:1] == b"\x80" or source.path.suffix.lower() in PICKLES:
        return Content(source, "pickle", read_pickle(source, 0, source.size)[0])
    raise source.refusal(
        "is no model file that legato knows: neither safetensors nor a checkpoint of torch nor a pickle. "
        "Fetch it again, or see `legato convert --help` for what can be read"
    )


def flatten(source: Source, tree: Any, prefix: str = "") -> dict[str, StoredTensor]:
    """The tensors of a state dict, each told its name. ModelFileError where something else is among them."""
    if type(tree) is not dict:
        raise source.damaged(f"{prefix.rstrip('.') or 'it'} is no table of tensors")
    found = {}
    for name, tensor in tree.items():
        if type(name) is not str or not isinstance(tensor, StoredTensor):
            raise source.refusal(f"holds {excerpt(name)} among its tensors, which is none. Save the state_dict() alone")
        found[name] = replace(tensor, name=f"{prefix}{name}")
    return found
