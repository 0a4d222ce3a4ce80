"""A file that nobody vouches for: read in ranges, counted, never mapped, so one that is cut short cannot kill us."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from legato.errors import ModelFileError

MAX_FILE_BYTES = 16 * 2**30
MAX_TEXT_BYTES = 64 * 2**20  # of strings, names and numbers in all pickles of one file; tensors are not counted
MAX_OPCODES = 1_000_000  # of all its pickles: a checkpoint of 1024 pixels with optimizers takes about 200,000
MAX_TENSORS = 20_000
MAX_DEPTH = 32  # of what holds what
EXCERPT = 80  # characters of foreign text in a message


@dataclass(slots=True)
class Budget:
    """What one file may still ask for; opening another file begins anew."""

    opcodes: int = MAX_OPCODES
    text: int = MAX_TEXT_BYTES
    tensors: int = MAX_TENSORS


@dataclass(slots=True)
class Source:
    """An open regular file; a context manager. Raises ModelFileError where there is none, or one of no sane size."""

    path: Path
    budget: Budget = field(default_factory=Budget)
    size: int = 0  # bytes
    _file: int = -1

    def __enter__(self) -> Source:
        try:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for ever
        except (OSError, ValueError) as error:
            raise self.refusal(
                f"cannot be opened ({getattr(error, 'strerror', None) or error}). Give the path of a model file"
            ) from error
        status = os.fstat(self._file)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.__exit__(None, None, None)
            raise self.refusal("is a folder, a device or a pipe. Give the path of a model file")
        if self.size > MAX_FILE_BYTES:
            self.__exit__(None, None, None)
            raise self.refusal(
                f"has {self.size / 2**30:.1f} GiB; legato reads model files of up to {MAX_FILE_BYTES >> 30} GiB. "
                "Save the generator alone, without optimizer"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes; a ModelFileError beyond the end, before anything is allocated."""
        self.check_range(offset, count)
        data = os.pread(self._file, count, offset)
        while len(data) < count:  # a read of more than 2 GiB, or a signal
            more = os.pread(self._file, count - len(data), offset + len(data))
            if not more:
                raise self.damaged("it became shorter while it was read")
            data += more
        return data

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fills `target` (bytes, writable) from `offset` on."""
        self.check_range(offset, len(target))
        done = 0
        while done < len(target):
            count = os.preadv(self._file, [target[done:]], offset + done)
            if not count:
                raise self.damaged("it became shorter while it was read")
            done += count

    def check_range(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise self.damaged(f"it ends at byte {self.size}, and {count} bytes from byte {offset} on are missing")

    def count(self, *, opcodes: int = 0, text: int = 0, tensors: int = 0) -> None:
        """Takes from the budget. Raises ModelFileError once it is used up."""
        budget = self.budget
        budget.opcodes -= opcodes
        budget.text -= text
        budget.tensors -= tensors
        for left, limit, what in (
            (budget.opcodes, MAX_OPCODES, "pickle opcodes"),
            (budget.text, MAX_TEXT_BYTES, "bytes of text"),
            (budget.tensors, MAX_TENSORS, "tensors"),
        ):
            if left < 0:
                raise self.refusal(f"holds more than {limit:,} {what}, as no checkpoint does. {FETCH_AGAIN}")

    def refusal(self, text: str) -> ModelFileError:
        return ModelFileError(f"{self.path} {text}")

    def damaged(self, text: str) -> ModelFileError:
        return ModelFileError(f"{self.path} is damaged: {text}. {FETCH_AGAIN}")


FETCH_AGAIN = "Fetch or save it again"


def excerpt(text: object) -> str:
    """Foreign text for a message: quoted and short. Only for text and numbers, whose repr is as long as they are."""
    shown = repr(text)
    return shown if len(shown) <= EXCERPT else f"{shown[: EXCERPT - 3]}..."
