"""Reads a pickle as data: a stack machine that knows lists, dicts, texts and numbers, and calls nothing that a file
names.

A name in the file (a "global") is only ever compared with the table in `known.py`, which says what data to make of it;
nothing is imported, no foreign class is made, no method of a file's choosing is called. Any other name ends the reading
with a message that tells it. What the stack machine cannot do is all that it lacks: opcodes of the extension registry,
of old-style instances and of out-of-band buffers are refused.

Memory is bounded: bytes stay in the file (`Blob`), text and opcodes are counted against the file's budget.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from typing import Any

from legato.models.containers.known import MAX_PROTOCOL, Global, build, construct, reduce
from legato.models.containers.reader import Reader
from legato.models.containers.source import MAX_DEPTH, Source

MAX_KEY = 2**31  # of numbers as keys: larger ones can be chosen so that all fall on one place of the table
Persistent = Callable[[Any], Any]
MARK = object()
NAMES = {ord(op.code): op.name for op in pickletools.opcodes}


def read_pickle(source: Source, start: int, end: int, persistent: Persistent | None = None) -> tuple[Any, int]:
    """The data of the pickle in bytes [start, end) of the file, and where it stops. `persistent` resolves references to
    storages. Raises ModelFileError."""
    machine = _Machine(source, Reader(source, start, end), persistent)
    try:
        return machine.run(), machine.reader.at
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
        raise source.damaged(
            f"a pickle in it makes no sense at byte {machine.reader.at} ({type(error).__name__})"
        ) from error


class _Machine:
    """The stack, the memo and one method a group of opcodes."""

    def __init__(self, source: Source, reader: Reader, persistent: Persistent | None) -> None:
        self.source = source
        self.reader = reader
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.marks = 0

    def run(self) -> Any:
        while True:
            self.source.count(opcodes=1)
            code = self.reader.take(1)[0]
            if code == ord("."):
                return self.stack.pop()
            handler = OPCODES.get(code)
            if handler is None:
                raise self.source.refusal(
                    f"uses the pickle opcode {NAMES.get(code, code)}, which no checkpoint needs; nothing was executed. "
                    "Do not load it with other programs"
                )
            handler(self)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks += 1
        if self.marks > MAX_DEPTH * 4:
            raise self.source.refusal("is nested deeper than any checkpoint. Fetch or save it again")
        self.stack.append(MARK)

    def since_mark(self) -> list[Any]:
        """Pops what lies above the last mark, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:  # IndexError at the bottom
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        self.marks -= 1
        return values

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise IndexError("a mark instead of a value")
        return value

    def pops(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def drop(self) -> None:
        if self.stack.pop() is MARK:
            self.marks -= 1

    def drop_marked(self) -> None:
        self.since_mark()

    def duplicate(self) -> None:
        value = self.pop()
        self.stack += [value, value]

    def frame(self, size: int) -> None:
        """A hint for readers that look ahead."""
        if size > self.reader.end - self.reader.at:
            raise self.source.damaged("a pickle in it ends in the middle")

    def target(self, kind: type) -> Any:
        """The container on top of the stack, which stays there."""
        top = self.stack[-1]
        if type(top) is not kind:
            raise TypeError(f"a {kind.__name__} was wanted")
        return top

    def append(self, values: list[Any]) -> None:
        self.target(list).extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.target(dict)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_key(key)] = value

    def add(self, values: list[Any]) -> None:
        self.target(set).update(map(_key, values))

    def put(self, index: int) -> None:
        if self.stack[-1] is MARK or index < 0:
            raise IndexError("nothing to remember")
        self.memo[index] = self.stack[-1]

    def memo_put(self) -> None:
        self.put(len(self.memo))

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def global_by_line(self) -> None:
        module, name = self.reader.line(), self.reader.line()
        self.push(Global.find(self.source, module, name))

    def stack_global(self) -> None:
        module, name = self.pops(2)
        if type(module) is not str or type(name) is not str:
            raise TypeError("a name was wanted")
        self.push(Global.find(self.source, module, name))

    def reduce(self) -> None:
        function, arguments = self.pops(2)
        self.push(reduce(self.source, function, arguments))

    def new_object(self) -> None:
        cls, arguments = self.pops(2)
        self.push(construct(self.source, cls, arguments))

    def build(self) -> None:
        state = self.pop()
        build(self.source, self.stack[-1], state)

    def persistent_id(self) -> None:
        reference = self.pop()
        if self.persistent is None:
            raise self.source.refusal(
                "refers to data outside of the pickle, where nothing is. Give the whole file as it was saved"
            )
        self.push(self.persistent(reference))

    def protocol(self) -> None:
        version = self.reader.take(1)[0]
        if version > MAX_PROTOCOL:
            raise self.source.refusal(f"is of pickle protocol {version}; up to {MAX_PROTOCOL} are known")

    def long(self, count: int) -> None:
        if not 0 <= count <= 64:
            raise ValueError("a number of more than 64 bytes")
        self.push(int.from_bytes(self.reader.take(count), "little", signed=True))

    def text_number(self, kind: Callable[[str], Any]) -> None:
        text = self.reader.line().removesuffix("L")
        self.push({"00": False, "01": True}[text] if kind is int and text in ("00", "01") else kind(text))

    def old_text(self, count: int) -> None:
        """The str of Python 2: text, or the bytes of an array."""
        self.source.count(text=count)
        self.push(self.reader.take(count).decode("latin-1"))

    def quoted(self) -> None:
        text = self.reader.line().strip()
        if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
            raise ValueError("a text without quotes")
        self.push(text[1:-1])


def _key(value: Any) -> Any:
    """Texts and small numbers: a nested tuple can take for ever to hash."""
    if value is None or type(value) is str or (isinstance(value, int) and abs(value) < MAX_KEY):
        return value
    raise TypeError(f"a key of type {type(value).__name__}")


def _dict(values: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


M = _Machine
OPCODES: dict[int, Callable[[_Machine], None]] = {
    ord(code): handler
    for code, handler in {
        "(": M.mark,
        "0": M.drop,
        "1": M.drop_marked,
        "2": M.duplicate,
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": lambda m: m.text_number(int),
        "L": lambda m: m.text_number(int),
        "F": lambda m: m.text_number(float),
        "J": lambda m: m.push(m.reader.number("<i")),
        "K": lambda m: m.push(m.reader.number("<B")),
        "M": lambda m: m.push(m.reader.number("<H")),
        "G": lambda m: m.push(m.reader.number(">d")),
        "\x8a": lambda m: m.long(m.reader.number("<B")),
        "\x8b": lambda m: m.long(m.reader.number("<i")),
        "S": M.quoted,
        "T": lambda m: m.old_text(m.reader.number("<I")),
        "U": lambda m: m.old_text(m.reader.number("<B")),
        "V": lambda m: m.push(m.reader.line()),
        "X": lambda m: m.push(m.reader.text(m.reader.number("<I"))),
        "\x8c": lambda m: m.push(m.reader.text(m.reader.number("<B"))),
        "\x8d": lambda m: m.push(m.reader.text(m.reader.number("<Q"))),
        "B": lambda m: m.push(m.reader.blob(m.reader.number("<I"))),
        "C": lambda m: m.push(m.reader.blob(m.reader.number("<B"))),
        "\x8e": lambda m: m.push(m.reader.blob(m.reader.number("<Q"))),
        ")": lambda m: m.push(()),
        "\x85": lambda m: m.push(m.pops(1)),
        "\x86": lambda m: m.push(m.pops(2)),
        "\x87": lambda m: m.push(m.pops(3)),
        "t": lambda m: m.push(tuple(m.since_mark())),
        "]": lambda m: m.push([]),
        "l": lambda m: m.push(m.since_mark()),
        "a": lambda m: m.append([m.pop()]),
        "e": lambda m: m.append(m.since_mark()),
        "}": lambda m: m.push({}),
        "d": lambda m: m.push(_dict(m.since_mark())),
        "s": lambda m: m.set_items(list(m.pops(2))),
        "u": lambda m: m.set_items(m.since_mark()),
        "\x8f": lambda m: m.push(set()),
        "\x90": lambda m: m.add(m.since_mark()),
        "\x91": lambda m: m.push(frozenset(map(_key, m.since_mark()))),
        "g": lambda m: m.get(int(m.reader.line())),
        "h": lambda m: m.get(m.reader.number("<B")),
        "j": lambda m: m.get(m.reader.number("<I")),
        "p": lambda m: m.put(int(m.reader.line())),
        "q": lambda m: m.put(m.reader.number("<B")),
        "r": lambda m: m.put(m.reader.number("<I")),
        "\x94": M.memo_put,
        "c": M.global_by_line,
        "\x93": M.stack_global,
        "R": M.reduce,
        "\x81": M.new_object,
        "b": M.build,
        "Q": M.persistent_id,
        "\x80": M.protocol,
        "\x95": lambda m: m.frame(m.reader.number("<Q")),
    }.items()
}
