"""Clips on disk: video files (with PyAV, the extra `video`) and folders of PNG or JPEG, as frames in and frames out.

A video keeps its frame times; a folder keeps its names. Frames are square on the way out, whatever they were.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Protocol, Self

from legato_client import png
from legato_client.images import Image, ImageFormat, Picture

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
VIDEO_CODECS = {".mp4": "libx264", ".mkv": "libx264", ".mov": "libx264", ".webm": "libvpx-vp9"}


class MediaError(Exception):
    """A clip that cannot be read or written; the message says what was wanted and what to do."""


@dataclass(frozen=True, slots=True)
class Shot:
    """Where one frame belongs: its place in the clip, its time in ticks of the clip's `tick`, its name."""

    index: int
    pts: int
    name: str


class Source(Protocol):
    """A clip to read. `count` is what its header claims (None: nothing), `rate` its frames per second."""

    count: int | None
    rate: Fraction
    tick: Fraction  # seconds per unit of pts

    def frames(self) -> Iterator[tuple[Shot, Picture]]: ...


class Sink(Protocol):
    """A clip to write. `format` is what it likes to be given."""

    format: ImageFormat

    def write(self, image: Image, shot: Shot) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(path: Path, rate: Fraction) -> Source:
    """The clip at `path`; `rate` is for folders, which have none. Raises MediaError for what is no clip."""
    if path.is_dir():
        return FolderSource(path, rate)
    if not path.exists():
        raise MediaError(f"{path} does not exist; a clip is a video file or a folder of PNG or JPEG files")
    source: Source = _video().VideoSource(path)
    return source


def open_sink(path: Path, rate: Fraction, tick: Fraction) -> Sink:
    """A clip to write at `path`: a video for a video's suffix, otherwise a folder of PNG files."""
    if path.suffix.lower() in VIDEO_CODECS:
        sink: Sink = _video().VideoSink(path, rate, tick)
        return sink
    if path.suffix and not path.is_dir():
        raise MediaError(f"{path}: the output is {', '.join(VIDEO_CODECS)}, or a folder (a name without a suffix)")
    return FolderSink(path)


class FolderSource:
    """PNG and JPEG files of a folder, in natural order (frame_2 before frame_10). Their bytes are sent as they are."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._files = sorted((f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
        if not self._files:
            raise MediaError(f"{path} holds no PNG or JPEG file")
        stems = [file.stem for file in self._files]
        for before, after in zip(self._files, self._files[1:], strict=False):
            if stems.count(after.stem) > 1:
                raise MediaError(
                    f"{before.name} and {after.name} would both be written as {after.stem}.png: rename one"
                )
        self.count: int | None = len(self._files)
        self.rate, self.tick = rate, 1 / rate

    def frames(self) -> Iterator[tuple[Shot, Picture]]:
        for index, file in enumerate(self._files):
            yield Shot(index, index, file.stem), file.read_bytes()


class FolderSink:
    """A folder of PNG files, named as the frames that came in. It appears with its first frame."""

    format: ImageFormat = "png"

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise MediaError(f"{path} is a file; a folder was to be written there")
        self._path = path

    def write(self, image: Image, shot: Shot) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        data = image.data if image.format == "png" else png.write(image.pixels)
        (self._path / f"{shot.name}.png").write_bytes(data)

    def close(self) -> None:
        """Every frame is on disk already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def _video() -> ModuleType:
    try:
        return importlib.import_module("legato_client.video")
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise MediaError(
            "video files need PyAV: pip install 'legato-client[video]' (folders of PNG or JPEG work without)"
        ) from None
