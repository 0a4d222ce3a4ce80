"""The deltas of a server's folder, each read when the first session asks for it and kept while one uses it."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from legato.errors import InvalidInput, ModelFileError, NotFound
from legato.models.delta import load_delta, with_delta
from legato.models.generator import Generator
from legato.types import ModelInfo

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")  # no way out of the folder


class Deltas:
    """Generators tuned by the files of `folder` ("": there are none), and the slots that have them. Thread-safe."""

    def __init__(self, folder: str | Path, generator: Generator, model: ModelInfo) -> None:
        self._model = model
        self._slots: dict[int, ModelInfo] = {}
        self._changes: list[tuple[int, Generator | None]] = []
        self._folder = Path(folder) if folder else None
        self._generator = generator
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._kept: WeakValueDictionary[tuple[str, int, int], Generator] = WeakValueDictionary()

    def load(self, name: str) -> Generator:
        """The model's generator with the delta NAME.safetensors; takes as long as reading it, once.

        Raises NotFound where there is none, InvalidInput where the file is damaged or another generator's.
        """
        path = self._folder / f"{name}.safetensors" if self._folder and _NAME.fullmatch(name) else None
        if path is None or not path.is_file():
            where = "its folder has no file of that name" if self._folder else "it was started without --deltas"
            raise NotFound(
                f"this server knows no delta {name[:100]!r}: {where}", reason="DELTA_NOT_FOUND", field="open.model"
            )
        with self._reading:
            stat = path.stat()
            key = (name, stat.st_mtime_ns, stat.st_size)
            found = self._kept.get(key)
            if found is None:
                try:
                    found = with_delta(self._generator, load_delta(path, generator_digest=self._generator.digest))
                except ModelFileError as error:
                    raise InvalidInput(str(error), reason="DELTA_REFUSED", field="open.model") from error
                self._kept[key] = found
            return found

    def give(self, slot: int, name: str, generator: Generator) -> None:
        """A new session's frames run with this generator, which `load` gave, until its slot is closed."""
        with self._lock:
            self._slots[slot] = replace(self._model, name=f"{self._model.name}+{name}", digest=generator.digest)
            self._changes.append((slot, generator))

    def take_back(self, slot: int) -> None:
        """The slot is closed: the next session in it has the model's generator."""
        with self._lock:
            if self._slots.pop(slot, None) is not None:
                self._changes.append((slot, None))

    def model(self, slot: int) -> ModelInfo:
        """What a slot's frames run with: the model, or what it was tuned to, with the digest of both."""
        with self._lock:
            return self._slots.get(slot, self._model)

    def changes(self) -> list[tuple[int, Generator | None]]:
        """Slots and their generators, None for the model's, since the last call; for the engine's thread."""
        with self._lock:
            found, self._changes = self._changes, []
            return found
