"""Hostile zip archives, safetensors and things that are no files; networks of other kinds. See hostile.py."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from legato.models.files import digest
from tests.models.formats.hostile import NOT_EXECUTED, SYSTEM, Hostile, name, text
from tests.models.formats.nets import random_generator
from tests.models.formats.writers import nvidia_state, rosinality_state

PICKLE_START, STOP = b"\x80\x02", b"."


def archive(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(path, "w", method) as file:
        for entry, data in entries.items():
            file.writestr(entry, data)
    return path.read_bytes()


def storage(kind: bytes, key: bytes, length: bytes) -> bytes:
    """A reference to a storage."""
    return b"(" + text("storage") + kind + key + text("cpu") + length + b"tQ"


def tensor(source: bytes, numbers: bytes) -> bytes:
    """A state dict of rosinality with one tensor; `numbers` are offset, shape and stride."""
    made = name("torch._utils._rebuild_tensor_v2") + b"(" + source + numbers + b"\x89NtR"
    return b"}" + text("g_ema") + b"}(" + text("input.input") + made + text("conv1.conv.weight") + made + b"us"


FLOATS = name("torch.FloatStorage")
GOOD = storage(FLOATS, text("0"), b"K\x04")
FOUR = b"K\0K\x04\x85K\x01\x85"


def pickled(body: bytes, **others: bytes) -> Callable[[Path], object]:
    entries = {"archive/data.pkl": PICKLE_START + body + STOP, "archive/data/0": bytes(16)}
    return lambda path: archive(path, entries | {key.replace("__", "/"): value for key, value in others.items()})


def zip_case(title: str, words: str, write: Callable[[Path], object]) -> Hostile:
    return Hostile(title, words, write, ".pt")


def patched(change: Callable[[bytearray], None]) -> Callable[[Path], object]:
    """A sound archive with some bytes changed."""

    def write(path: Path) -> None:
        raw = bytearray(archive(path, {"a/data.pkl": PICKLE_START + b"}" + STOP, "a/data/0": bytes(16)}))
        change(raw)
        path.write_bytes(raw)

    return write


def set_central(entry: int, offset: int, value: bytes) -> Callable[[bytearray], None]:
    """Bytes in the entry-th record of the directory."""

    def change(raw: bytearray) -> None:
        at = -1
        for _ in range(entry + 1):
            at = raw.index(b"PK\1\2", at + 1)
        raw[at + offset : at + offset + len(value)] = value

    return change


def set_end(offset: int, value: bytes) -> Callable[[bytearray], None]:
    def change(raw: bytearray) -> None:
        at = raw.rindex(b"PK\5\6")
        raw[at + offset : at + offset + len(value)] = value

    return change


def twice(path: Path) -> None:
    archive(path, {"a/data.pkl": PICKLE_START + b"}" + STOP, "a/data.pkM": b""})
    path.write_bytes(path.read_bytes().replace(b"data.pkM", b"data.pkl"))


ZIPS = [
    zip_case("zip, a global", f"asks for 'os.system'.*{NOT_EXECUTED}", pickled(SYSTEM)),
    zip_case(
        "zip, deflated",
        "holds the compressed entry 'a/data.pkl'",
        lambda path: archive(path, {"a/data.pkl": bytes(10**7)}, zipfile.ZIP_DEFLATED),
    ),
    zip_case(
        "zip, a size that lies", "holds the compressed entry", patched(set_central(1, 24, struct.pack("<I", 2**31)))
    ),
    zip_case(
        "zip, beyond its end",
        "bytes from byte .* are missing",
        patched(set_central(1, 20, struct.pack("<II", 2**31, 2**31))),
    ),
    zip_case("zip, encrypted", "holds the encrypted entry", patched(set_central(0, 8, b"\1\0"))),
    zip_case(
        "zip, a link", "holds the link 'a/data.pkl'", patched(set_central(0, 38, struct.pack("<I", 0o120777 << 16)))
    ),
    zip_case("zip, overlapping", "is not where the directory says|overlap", patched(set_central(1, 42, bytes(4)))),
    zip_case("zip, two entries of one range", "holds 'a' twice", lambda path: same_range(path)),
    zip_case("zip, an entry twice", "holds 'a/data.pkl' twice", twice),
    zip_case(
        "zip, many entries announced",
        "is a zip archive of 65000 entries",
        patched(set_end(8, struct.pack("<HH", 65000, 65000))),
    ),
    zip_case(
        "zip, more entries than there are",
        "directory of its zip archive is cut off",
        patched(set_end(8, struct.pack("<HH", 99, 99))),
    ),
    zip_case("zip, a large directory", "is a zip archive of 2 entries", patched(set_end(12, struct.pack("<I", 2**31)))),
    zip_case("zip, a directory elsewhere", "is damaged", patched(set_end(16, struct.pack("<I", 2**31)))),
    zip_case("zip, in parts", "in several parts", patched(set_end(4, b"\1\0"))),
    zip_case(
        "zip, cut",
        "part of it is missing",
        lambda path: path.write_bytes(archive(path, {"a/data.pkl": bytes(999)})[:500]),
    ),
    zip_case("zip, no pickle", "not one that torch.save wrote", lambda path: archive(path, {"arr_0.npy": b"x"})),
    zip_case("TorchScript", "TorchScript archive, which holds code", pickled(b"}", archive__code__x_py=b"")),
    zip_case("zip, big-endian", "big-endian", pickled(b"}", archive__byteorder=b"big")),
    zip_case("zip, a module as reference", "no storage", pickled(b"(" + text("module") + text("x") * 4 + b"tQ")),
    zip_case("zip, reference of text", "no storage", pickled(text("storage") + b"Q")),
    zip_case("zip, storage of no kind", "has no kind", pickled(tensor(storage(text("os"), text("0"), b"K\x04"), FOUR))),
    zip_case(
        "zip, storage elsewhere", "is not all there", pickled(tensor(storage(FLOATS, text("../x"), b"K\x04"), FOUR))
    ),
    zip_case(
        "zip, storage too long",
        "is not all there",
        pickled(tensor(storage(FLOATS, text("0"), b"\x8a\x05\0\0\0\0\1"), FOUR)),
    ),
    zip_case(
        "zip, a length below 0", "has no kind", pickled(tensor(storage(FLOATS, text("0"), b"J\xff\xff\xff\xff"), FOUR))
    ),
    zip_case(
        "zip, a tensor of repeats",
        "overlaps or gaps",
        pickled(tensor(GOOD, b"K\0M\xff\xffM\xff\xff\x86K\0K\0\x86".replace(b"M\xff\xffM\xff\xff", b"K\x02K\x02"))),
    ),
    zip_case(
        "zip, a huge tensor", "does not fit in its storage", pickled(tensor(GOOD, b"K\0J\xff\xff\xff\x7f\x85K\0\x85"))
    ),
    zip_case(
        "zip, an offset below 0",
        "no shape that makes sense",
        pickled(tensor(GOOD, b"J\xff\xff\xff\xffK\x01\x85K\x01\x85")),
    ),
    zip_case(
        "zip, a shape of texts",
        "no shape that makes sense",
        pickled(tensor(GOOD, b"K\0" + text("4") + b"\x85K\x01\x85")),
    ),
    zip_case(
        "zip, many dimensions",
        "no shape that makes sense",
        pickled(tensor(GOOD, b"K\0(" + b"K\x01" * 99 + b"tK\x01\x85")),
    ),
    zip_case("zip, many tensors", "more than 20,000 tensors", pickled(b"](" + tensor(GOOD, FOUR) * 11_000 + b"e")),
]


def same_range(path: Path) -> None:
    """The zip of D. Fifield's kind: two records of the directory, one local entry."""
    raw = bytearray(archive(path, {"a": b"12345678", "b": b"12345678"}))
    first = raw.index(b"PK\1\2")
    second = raw.index(b"PK\1\2", first + 1)
    raw[second + 42 : second + 46] = raw[first + 42 : first + 46]  # where its local entry lies
    raw[second + 46 : second + 47] = b"a"
    path.write_bytes(raw)


def headed(path: Path, header: bytes, size: int | None = None, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + data)


def tensors(data: bytes = bytes(16), **entries: Any) -> Callable[[Path], object]:
    return lambda path: headed(path, json.dumps(entries).encode(), data=data)


def entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def own(**config: Any) -> Callable[[Path], object]:
    """A file of legato's own whose architecture is out of bounds."""
    state = {"x": torch.zeros(1)}
    fields = {"format": "legato", "version": 1, "kind": "generator", "recipe": {}, "config": config}
    header = json.dumps({**fields, "digest": digest(state)})
    return lambda path: save_file(state, path, metadata={"legato": header})


def safe_case(title: str, words: str, write: Callable[[Path], object]) -> Hostile:
    return Hostile(title, words, write, ".safetensors")


BROKEN = "cannot be read as safetensors .*"
OWN = '{"__metadata__": {"legato": %s}}'
SAFETENSORS = [
    safe_case("header of 8 EiB", BROKEN + "announces a header of", lambda path: headed(path, b"{}", 2**63)),
    safe_case("header beyond the end", BROKEN + "is not all there", lambda path: headed(path, b"{}", 10**6)),
    safe_case("no JSON", BROKEN + "is no JSON", lambda path: headed(path, b"{nothing}")),
    safe_case("deep JSON", BROKEN + "is no JSON", lambda path: headed(path, b'{"a":' + b"[" * 10**6)),
    safe_case("large numbers", BROKEN + "is no JSON", lambda path: headed(path, b'{"a":' + b"9" * 10**6 + b"}")),
    safe_case("a name twice", BROKEN + "is no JSON", lambda path: headed(path, b'{"a":{},"a":{}}')),
    safe_case("a list", BROKEN + "no table of tensors", lambda path: headed(path, b"[]")),
    safe_case(
        "many tensors",
        BROKEN + "no table of tensors",
        lambda path: headed(path, json.dumps({str(i): 0 for i in range(30_000)}).encode()),
    ),
    safe_case("an entry of text", BROKEN + "has no dtype", tensors(a="x")),
    safe_case("an unknown dtype", "holds 'a' as 'F8_E4M3'", tensors(a=entry("F8_E4M3"))),
    safe_case("a dtype that is none", "holds 'a' as None", tensors(a=entry(None))),
    safe_case("a shape that does not fit", BROKEN + "does not fit its range", tensors(a=entry(shape=(5,)))),
    safe_case("a shape below 0", BROKEN + "does not fit its range", tensors(a=entry(shape=(-2, -2)))),
    safe_case("a shape of fractions", BROKEN + "does not fit its range", tensors(a=entry(shape=(4.0,)))),
    safe_case("a huge shape", BROKEN + "does not fit its range", tensors(a=entry(shape=(2**31, 2**31, 4)))),
    safe_case("beyond the end", "are missing", tensors(a=entry(shape=(8,), offsets=(0, 32)))),
    safe_case("overlapping", BROKEN + "does not begin where", tensors(a=entry(), b=entry())),
    safe_case("a gap", BROKEN + "does not begin where", tensors(a=entry(shape=(2,), offsets=(8, 16)))),
    safe_case("more than told", BROKEN + "its tensors end at", tensors(bytes(99), a=entry())),
    safe_case("metadata of numbers", BROKEN + "its metadata are not texts", tensors(__metadata__={"legato": 5})),
    safe_case("own, deep JSON", "damaged header", lambda path: headed(path, (OWN % json.dumps("[" * 10**5)).encode())),
    safe_case("own, no JSON", "damaged header", lambda path: headed(path, (OWN % '"x"').encode())),
    safe_case("own, huge", "resolution is at most 4096", own(resolution=2**14)),
    safe_case("own, many layers", "mapping_layers 64", own(mapping_layers=10**5)),
    safe_case("own, wide", "does not describe a generator", own(channel_base=2**60, channel_max=2**60)),
    safe_case("own, a size of text", "sizes are whole numbers", own(w_dim="512")),
    safe_case("own, a size of truth", "sizes are whole numbers", own(mapping_layers=True)),
    safe_case("own, clamp that is no number", "does not describe a generator", own(conv_clamp="os")),
    safe_case("own, nothing finite", "are finite", own(mapping_lr_multiplier=float("nan"))),
]


def saved(**tree: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(tree, path)


def overlapping() -> dict[str, torch.Tensor]:
    """Every tensor of a generator a view of one storage."""
    state = rosinality_state(random_generator())
    shared = torch.zeros(max(t.numel() for t in state.values()))
    views = {key: shared[: t.numel()].view(t.shape) for key, t in state.items() if not key.endswith("kernel")}
    return OrderedDict(state | views)


def with_more(**more: tuple[int, ...]) -> Callable[[Path], object]:
    state = nvidia_state(random_generator())
    extra = {key.replace("__", "."): torch.zeros(shape) for key, shape in more.items()}
    return lambda path: torch.save(state | extra, path)


SEFA = {"synthesis.early_layer.const": torch.zeros(1, 4, 4, 4), "synthesis.layer0.apply_noise.weight": torch.zeros(4)}
STATES = [
    zip_case("tensors over each other", "lie over each other", lambda path: torch.save({"g_ema": overlapping()}, path)),
    zip_case("StyleGAN3", "holds a StyleGAN3 generator.*--cfg=stylegan2", with_more(synthesis__L0_36_512__weight=(4,))),
    zip_case("conditional", "is conditional on labels", with_more(mapping__embed__weight=(512, 10))),
    zip_case("residual", "of the residual architecture", with_more(synthesis__b8__skip__weight=(8, 8, 1, 1))),
    zip_case(
        "StyleGAN1",
        "holds a StyleGAN1 generator",
        lambda path: torch.save({"generator": {"synthesis.layer0.epilogue.bias": torch.zeros(4)}}, path),
    ),
    zip_case("StyleGAN1 of SeFa", "holds a StyleGAN1 generator", saved(generator_smooth=SEFA)),
    zip_case(
        "something else", "holds no StyleGAN2 network under names that legato knows", saved(weight=torch.zeros(3))
    ),
    zip_case("no widths", "channels that follow no rule", with_more(synthesis__b4__conv1__weight=())),
    zip_case(
        "widths of no rule", "channels that follow no rule", with_more(synthesis__b16__conv1__weight=(3, 3, 3, 3))
    ),
]


def linked(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


FILES = [
    Hostile("a folder's name", "there is a folder|there is nothing", lambda path: path.mkdir()),
    Hostile("a pipe", "a device or a pipe", os.mkfifo),
    Hostile("a link to a device", "a device or a pipe", linked("/dev/zero")),
    Hostile("a link to nothing", "there is nothing of that name", linked("/nowhere/at-all")),
    Hostile("a link to itself", "there is nothing of that name", linked("itself.pkl")),
    Hostile("an empty file", "it is empty", lambda path: path.touch()),
    Hostile(
        "a page of the web", "is a page of the web", lambda path: path.write_text("<!DOCTYPE html><html>quota</html>")
    ),
    Hostile(
        "a pointer of Git LFS",
        "git lfs pull",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    ),
    Hostile("gzip", "compressed by gzip", lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(99))),
    Hostile("tar", "is a tar archive", lambda path: path.write_bytes(bytes(257) + b"ustar" + bytes(500)), ".pt"),
    Hostile(
        "a picture",
        "is no model file that legato knows",
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)),
        ".png",
    ),
    Hostile("noise", "opcode|no sense|is damaged", lambda path: path.write_bytes(bytes(range(200, 256)) * 9)),
]
