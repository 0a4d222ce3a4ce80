"""Walks through a range of a file that holds a pickle."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from legato.models.containers.known import Blob
from legato.models.containers.source import Source

MAX_LINE = 1024  # bytes of a number or a name that ends with a line
MAX_WINDOW = 2**16  # bytes that are looked at together


@dataclass(slots=True)
class Reader:
    """Walks through a range of the file."""

    source: Source
    at: int  # bytes, from the start of the file
    end: int
    window: bytes = b""
    window_at: int = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        start = self.at - self.window_at
        if not 0 <= start <= start + count <= len(self.window):
            if count > self.end - self.at:
                raise self.source.damaged("a pickle in it ends in the middle")
            self.window = self.source.read(self.at, min(max(count, MAX_WINDOW), self.end - self.at))
            self.window_at, start = self.at, 0
        self.at += count
        return self.window[start : start + count]

    def text(self, count: int) -> str:
        self.source.count(text=count)
        return self.take(count).decode("utf-8", "replace")

    def line(self) -> str:
        line = bytearray()
        while (byte := self.take(1)) != b"\n":
            line += byte
            if len(line) > MAX_LINE:
                raise self.source.damaged("a line of a pickle in it is too long")
        self.source.count(text=len(line))
        return line.decode("utf-8", "replace")

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def blob(self, count: int) -> Blob:
        """The place of the next bytes, which are passed over."""
        if count < 0 or count > self.end - self.at:
            raise self.source.damaged("a pickle in it ends in the middle")
        self.at += count
        return Blob(self.source, self.at - count, count)
