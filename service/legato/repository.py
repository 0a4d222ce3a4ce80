"""A folder of models with versions. No torch here: the files are not opened.

    DIR/NAME/VERSION/generator.safetensors, encoder.safetensors, directions.safetensors    VERSION: 1, 2, 3, ...
    DIR/NAME/generator.safetensors, ...                                                    a model without versions

Folders of other names beside the versions are passed over, so that a version can be copied under one of those and then
be given its number, whole. A name from a client is looked up among those that are there, and never made into a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from legato.errors import ConfigError, NotFound

Files = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a version of a model is read from. `version` is "" for a model without versions."""

    name: str
    version: str
    path: str  # a folder, or the name of a packaged model
    directions: str = ""  # another file than the folder's own
    encoder: str = ""  # likewise

    @property
    def label(self) -> str:
        """What `open.model` says: "name" or "name@version"."""
        return f"{self.name}@{self.version}" if self.version else self.name

    @property
    def number(self) -> int:
        """For the order of versions."""
        return int(self.version or 0)

    def files(self) -> Files:
        """Name, size and time of every file: it changes when the version does. () for a packaged model."""
        folder = Path(self.path)
        if not self.path or not folder.is_dir():
            return ()
        stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
        return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


class Repository:
    """The models of a folder, as they lie there now, and one model from elsewhere.

    Args:
        folder: of models with versions; None: there is none.
        single: the model from elsewhere.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, folder: str | Path | None = None, single: Source | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._single = single
        if self._folder is not None and not self._folder.is_dir():
            raise ConfigError(f"no folder of models at {folder}; --models names one with NAME/VERSION/ in it")

    @property
    def names(self) -> list[str]:
        """Names of all models, in order, that of the model from elsewhere first."""
        single = [] if self._single is None else [self._single.name]
        return single + [name for name in self._folders() if name not in single]

    def versions(self, name: str) -> list[Source]:
        """All versions of a model, the newest first; none of an unknown one."""
        if self._single is not None and name == self._single.name:
            return [self._single]
        folder = self._folders().get(name)
        if folder is None:
            return []
        found = [Source(name, path.name, str(path)) for path in folder.iterdir() if _is_version(path)]
        return sorted(found, key=lambda source: source.number, reverse=True) or [Source(name, "", str(folder))]

    def find(self, name: str, version: str = "") -> Source:
        """A version of a model; "" is the newest. Raises NotFound (MODEL_NOT_FOUND)."""
        there = self.versions(name)
        if not there:
            known = ", ".join(map(repr, self.names)) or "none"
            raise NotFound(
                f"no model is named {name[:100]!r} in this server's folder; there are: {known}",
                reason="MODEL_NOT_FOUND",
            )
        for source in there:
            if version in ("", source.version):
                return source
        known = ", ".join(source.version for source in there if source.version) or "none"
        raise NotFound(f"model {name!r} has no version {version[:100]!r}; there are: {known}", reason="MODEL_NOT_FOUND")

    def _folders(self) -> dict[str, Path]:
        if self._folder is None:
            return {}
        there = (path for path in sorted(self._folder.iterdir()) if path.is_dir())
        return {path.name: path for path in there if path.name[0] not in "._" and "@" not in path.name}


def _is_version(path: Path) -> bool:
    """A folder whose name is a whole number from 1 up, written without zeros before it."""
    name = path.name
    return name.isascii() and name.isdecimal() and name[0] != "0" and path.is_dir()
