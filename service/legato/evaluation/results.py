"""What is finished of an evaluation, in a folder: a JSON file and pictures for each method, found by the next run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legato.inversion.method import Method
from legato.offline import write_json, write_npz

Pictures = dict[str, NDArray[np.uint8]]  # "reconstruction" or an attribute -> [K, 3, R, R], black where there is none
Record = dict[str, Any]  # of one method, JSON values


class Results:
    """The folder of what is finished under one set of settings. Several runs may fill it at once."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        """Raises ConfigError where it cannot be made."""
        self.settings = json.loads(json.dumps(settings))
        text = json.dumps(self.settings, sort_keys=True)
        self.folder = out / "results" / hashlib.sha256(text.encode()).hexdigest()[:12]
        write_json(self.folder / "settings.json", self.settings)

    def find(self, method: Method) -> Record | None:
        """The record of a method, if it was finished with the same options."""
        record = self._read(self._stem(method.label).with_suffix(".json"))
        options = json.loads(json.dumps(asdict(method.options))) if method.options else {}
        return record if record is not None and record["options"] == options else None

    def keep(self, record: Record, pictures: Pictures) -> None:
        """Writes pictures, then the record, each whole or not at all. Raises ConfigError, as on a full disk."""
        stem = self._stem(record["method"])
        write_npz(stem.with_suffix(".npz"), pictures)
        write_json(stem.with_suffix(".json"), record)

    def all(self) -> list[Record]:
        """Everything that is finished, whoever ran it, in the order of labels."""
        files = sorted(path for path in self.folder.glob("*.json") if path.name != "settings.json")
        records = [record for record in map(self._read, files) if record is not None]
        return sorted(records, key=lambda record: str(record["method"]))

    def pictures(self, record: Record) -> Pictures:
        """Of a finished method."""
        with np.load(self._stem(record["method"]).with_suffix(".npz")) as file:
            return {name: file[name] for name in file.files}

    def _stem(self, label: str) -> Path:
        name = re.sub(r"\W+", "_", label)[:60]
        return self.folder / f"{name}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"

    def _read(self, path: Path) -> Record | None:
        try:
            record: Record = json.loads(path.read_text(encoding="utf-8"))
            return record if record.keys() >= {"method", "options", "clips"} else None
        except (OSError, ValueError, AttributeError):
            return None
