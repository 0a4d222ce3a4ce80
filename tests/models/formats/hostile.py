"""Files that want something else than to be read: each a name, how it is written, and words of the refusal.

`TOUCH` in a payload is a shell command that makes the canary; nothing may ever run it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

P2, P4, STOP = b"\x80\x02", b"\x80\x04", b"."
TOUCH = "touch canary"
NOT_EXECUTED = "nothing was executed"


@dataclass(frozen=True)
class Hostile:
    name: str
    words: str  # a regular expression that the message holds
    write: Callable[[Path], object]
    suffix: str = ".pkl"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(full: str) -> bytes:
    """GLOBAL."""
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(full: str, *arguments: bytes) -> bytes:
    return name(full) + b"(" + b"".join(arguments) + b"tR"


def pickle_case(title: str, words: str, body: bytes, start: bytes = P2, end: bytes = STOP) -> Hostile:
    return Hostile(title, words, lambda path: path.write_bytes(start + body + end))


def asks_for(full: str, *arguments: bytes) -> Hostile:
    return pickle_case(f"calls {full}", f"asks for '{full}'.*{NOT_EXECUTED}", call(full, *arguments))


def legacy(content: bytes, keys: bytes = b"]", machine: bytes = b"") -> bytes:
    """A file of torch's older format around a pickled object."""
    facts = b"}" + b"(" + text("little_endian") + b"\x88" + b"u" + machine
    parts = (b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little"), b"M\xe9\x03", facts, content, keys)
    return b"".join(P2 + part + STOP for part in parts)


def nested(content: bytes) -> bytes:
    """A call of torch.storage._load_from_bytes on such a file."""
    inside = legacy(content)
    return name("torch.storage._load_from_bytes") + b"B" + struct.pack("<I", len(inside)) + inside + b"\x85R"


def sparse(path: Path, start: bytes, size: int) -> None:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


def persistent(class_name: str, state: bytes) -> bytes:
    """An object of NVIDIA's persistence."""
    meta = b"}(" + text("class_name") + text(class_name) + text("state") + state + b"u"
    return name("torch_utils.persistence._reconstruct_persistent_obj") + meta + b"\x85R"


def colliding(k: int) -> bytes:
    """A number whose hash is 0, and a value."""
    return b"\x8a\x10" + (k * (2**61 - 1)).to_bytes(16, "little") + b"N"


SYSTEM = call("os.system", text(TOUCH))
LAUGHS = b")" + b"2\x86" * 200  # each line twice the one before, through the memo's way: 2^200 if walked
CYCLE = b"".join(
    (
        b"}q\x010}q\x020" + persistent("Generator", b"h\x01") + b"q\x030",  # a state, its modules, the object
        b"h\x02" + text("a") + b"h\x03s0h\x01" + text("_modules") + b"h\x02s0",
        b"}" + text("G_ema") + b"h\x03s",
    )
)
STRANGER = (
    b"}"
    + text("G_ema")
    + persistent("Generator", b"}" + text("_modules") + b"}" + text("a") + text("b") + b"ss")
    + b"s"
)
REFUSED_OPCODE = "uses the pickle opcode {}, .*" + NOT_EXECUTED
SENSELESS = "is damaged: a pickle in it makes no sense"

PICKLES = [
    asks_for("os.system", text(TOUCH)),
    asks_for("posix.system", text(TOUCH)),
    asks_for("builtins.eval", text(f"__import__('os').system({TOUCH!r})")),
    asks_for("builtins.exec", text(f"import os; os.system({TOUCH!r})")),
    asks_for("__builtin__.getattr", name("collections.OrderedDict"), text("__init__")),
    asks_for("builtins.__import__", text("os")),
    asks_for("importlib.import_module", text("antigravity")),
    asks_for("subprocess.Popen", text(TOUCH)),
    asks_for("runpy._run_code", text("1")),
    asks_for("torch.load", text("other.pt")),
    asks_for("torch.hub.load", text("a/b")),
    asks_for("numpy.load", text("other.npy")),
    asks_for("pickle.loads", text("x")),
    asks_for("operator.attrgetter", text("system")),
    asks_for("torch._utils._rebuild_tensor_v2.__globals__", text("os")),
    asks_for("collections.OrderedDict.fromkeys", text("x")),
    pickle_case("protocol 0", "asks for 'os.system'", f"cos\nsystem\n(S'{TOUCH}'\ntR".encode(), b""),
    pickle_case(
        "stack global", "asks for 'os.system'", text("os") + text("system") + b"\x93" + text(TOUCH) + b"\x85R", P4
    ),
    pickle_case("a name that is no text", SENSELESS, b"K\x01K\x02\x93", P4),
    pickle_case("a global far down", "asks for 'os.system'", b"(" * 20 + SYSTEM),
    pickle_case("a global inside a storage", "asks for 'os.system'", nested(SYSTEM)),
    pickle_case("a storage inside a storage", "asks for 'os.system'", nested(nested(SYSTEM))),
    pickle_case("a storage that is a dict", "the bytes of a storage in it hold something else", nested(b"}")),
    pickle_case("no class", f"makes an object of 'torch.device'.*{NOT_EXECUTED}", name("torch.device") + b")\x81"),
    pickle_case("a class with arguments", "makes an object of", name("dnnlib.util.EasyDict") + b"N\x85\x81"),
    pickle_case("keywords to a class", REFUSED_OPCODE.format("NEWOBJ_EX"), name("dnnlib.util.EasyDict") + b")}\x92"),
    pickle_case("a class's state", "sets attributes of 'dnnlib.util.EasyDict'", name("dnnlib.util.EasyDict") + b"}b"),
    pickle_case("slots of a dict", "sets attributes of a dict", name("collections.OrderedDict") + b")R" + b"N}\x86b"),
    pickle_case("state of a list", "sets attributes of a list", b"]}b"),
    pickle_case("old instance", REFUSED_OPCODE.format("INST"), f"(S'{TOUCH}'\nios\nsystem\n".encode(), b""),
    pickle_case("old object", REFUSED_OPCODE.format("OBJ"), b"(" + name("collections.OrderedDict") + b"o"),
    pickle_case("extension 1", REFUSED_OPCODE.format("EXT1"), b"\x82\x01"),
    pickle_case("extension 4", REFUSED_OPCODE.format("EXT4"), b"\x84\x01\0\0\0"),
    pickle_case("text reference", REFUSED_OPCODE.format("PERSID"), b"Pstorage\n"),
    pickle_case("reference", "refers to data outside of the pickle", text("storage") + b"Q"),
    pickle_case("buffer", REFUSED_OPCODE.format("NEXT_BUFFER"), b"\x97"),
    pickle_case("byte array", REFUSED_OPCODE.format("BYTEARRAY8"), b"\x96" + struct.pack("<Q", 2**40)),
    pickle_case("unknown opcode", REFUSED_OPCODE.format("255"), b"\xff"),
    pickle_case("calls a text", f"calls a str.*{NOT_EXECUTED}", text("os.system") + text(TOUCH) + b"\x85R"),
    pickle_case("calls what a call gave", "calls a dict", name("collections.OrderedDict") + b")R)R"),
    pickle_case("calls a storage class", "calls 'torch.FloatStorage'", name("torch.FloatStorage") + b"K\x09\x85R"),
    pickle_case("arguments are no tuple", "calls 'torch.Size'", name("torch.Size") + b"]R"),
    pickle_case("wrong arguments", SENSELESS, call("torch.Size", text("x"))),
    pickle_case("too many arguments", SENSELESS, call("torch.Size", b")", b")", b")")),
    pickle_case(
        "tensor without storage", "a tensor in it has no storage", call("torch._utils._rebuild_tensor_v2", b"NK\0))")
    ),
    pickle_case(
        "parameter that is none", "is not a tensor", call("torch._utils._rebuild_parameter", text("x"), b"\x88N")
    ),
    pickle_case("memo is empty", SENSELESS, b"h\x07"),
    pickle_case("far memo", "holds no StyleGAN2 network", b"}r\xff\xff\xff\xff"),
    pickle_case("stack is empty", SENSELESS, b""),
    pickle_case("mark as a value", SENSELESS, b"(\x85"),
    pickle_case("items of a text", SENSELESS, text("x") + b"(K\x01K\x02u"),
    pickle_case("odd items", SENSELESS, b"}(K\x01u"),
    pickle_case("many bytes announced", "ends in the middle", b"\x8e" + struct.pack("<Q", 2**60), P4),
    pickle_case("many bytes, signed", "ends in the middle", b"B\xff\xff\xff\xff"),
    pickle_case("long text announced", "bytes of text", b"\x8d" + struct.pack("<Q", 2**60), P4),
    pickle_case("long frame announced", "ends in the middle", b"\x95" + struct.pack("<Q", 2**60), P4),
    pickle_case("long number announced", SENSELESS, b"\x8b" + struct.pack("<i", 2**30)),
    pickle_case("negative number of bytes", SENSELESS, b"\x8b" + struct.pack("<i", -1)),
    pickle_case("long line", "a line of a pickle in it is too long", b"I" + b"1" * 5000 + b"\n"),
    pickle_case("many opcodes", "more than 1,000,000 pickle opcodes", b"N0" * 600_000),
    pickle_case("deep marks", "nested deeper", b"(" * 5000),
    pickle_case("deep tuple", "holds no StyleGAN2 network", b")" + b"\x85" * 300_000),
    pickle_case("laughs as a key", SENSELESS, b"}" + LAUGHS + b"Ns"),
    pickle_case("laughs as a value", "holds no StyleGAN2 network", b"}" + text("g_ema") + LAUGHS + b"s"),
    pickle_case("number keys that collide", SENSELESS, b"}(" + b"".join(map(colliding, range(1, 99))) + b"u"),
    pickle_case("a list in itself", "holds no StyleGAN2 network", b"]2a"),
    pickle_case("a state dict in itself", "holds no StyleGAN2 network", b"}q\0" + text("g_ema") + b"h\0s"),
    pickle_case("a module in itself", "is nested deeper", CYCLE),
    pickle_case(
        "no state", "has no class or no state", call("torch_utils.persistence._reconstruct_persistent_obj", b"}")
    ),
    pickle_case("a module of strangers", "is not one of NVIDIA's", STRANGER),
    pickle_case("no end", "ends in the middle", b"}" + text("g_ema"), end=b""),
    pickle_case("protocol of the future", "is of pickle protocol 99", b"\x80\x63}"),
    pickle_case(
        "whole network",
        "asks for 'torch.nn.modules.linear.Linear'.*state_dict",
        name("torch.nn.modules.linear.Linear") + b")\x81",
    ),
    pickle_case("TensorFlow", "legacy TensorFlow pickle.*legacy.py", name("dnnlib.tflib.network.Network") + b")\x81"),
    Hostile("much text", "bytes of text", lambda path: sparse(path, P2 + b"X" + struct.pack("<I", 2**27), 2**27 + 99)),
    Hostile("a file of 100 GiB", "reads model files of up to 16 GiB", lambda path: sparse(path, P2, 100 * 2**30)),
    Hostile("older format, a global", "asks for 'os.system'", lambda path: path.write_bytes(legacy(SYSTEM)), ".pt"),
    Hostile(
        "older format, in its facts",
        "asks for 'os.system'",
        lambda path: path.write_bytes(legacy(b"}", machine=SYSTEM)),
        ".pt",
    ),
    Hostile(
        "older format, in its keys",
        "asks for 'os.system'",
        lambda path: path.write_bytes(legacy(b"}", keys=SYSTEM)),
        ".pt",
    ),
    Hostile(
        "older format, big-endian",
        "big-endian",
        lambda path: path.write_bytes(legacy(b"}").replace(b"\x88u", b"\x89u")),
        ".pt",
    ),
    Hostile(
        "older format, keys of nobody",
        "the names of its storages",
        lambda path: path.write_bytes(legacy(b"}", keys=b"]" + text("9") + b"a")),
        ".pt",
    ),
]


def legacy_tensor(path: Path, cut: int = 0, lie: bool = False) -> None:
    torch.save({"g_ema": {"input.input": torch.zeros(100)}}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    at = len(raw) - 400 - 8
    raw = raw[:at] + struct.pack("<q", 2**50) + raw[at + 8 :] if lie else raw
    path.write_bytes(raw[: len(raw) - cut])


PICKLES += [
    Hostile("older format, cut", "is not all there", lambda path: legacy_tensor(path, cut=9), ".pt"),
    Hostile("older format, a length that lies", "is not all there", lambda path: legacy_tensor(path, lie=True), ".pt"),
]
