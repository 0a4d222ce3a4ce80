"""Frames in and frames out: video files (with PyAV, the extra `video`), folders of PNG or JPEG, and devices.

A video keeps its frame times and its sound; a folder keeps its names.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
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


class Stopped(Exception):
    """The user closed the window that frames are shown in; the stream ends in good order."""


@dataclass(frozen=True, slots=True)
class Shot:
    """Where one frame belongs: its place in the clip, its time in ticks of the clip's `tick`, its name, and how many
    ticks it is shown (0: until the next)."""

    index: int
    pts: int
    name: str
    ticks: int = 0


class Source(Protocol):
    """A clip to read. `count` is what its header claims (None: nothing), `rate` its frames per second."""

    count: int | None
    rate: Fraction
    tick: Fraction  # seconds per unit of pts

    def frames(self) -> Iterator[tuple[Shot, Picture]]: ...


class Sink(ABC):
    """A clip to write. `format` is what it likes to be given; `note` says what of it could not be written."""

    format: ImageFormat = "raw"
    note: str = ""

    @abstractmethod
    def write(self, image: Image, shot: Shot) -> None:
        """Adds a frame."""

    @abstractmethod
    def close(self) -> None:
        """Writes what is not written yet, and frees what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_device(path: Path) -> bool:
    """Whether a name means a camera (`camera:0`), a window (`window`) or a virtual camera (`virtualcam`)."""
    return re.fullmatch(r"camera:\d+|window|virtualcam", str(path)) is not None


def open_source(path: Path, rate: Fraction) -> Source:
    """The clip at `path`, or a camera, `camera:0`; `rate` is for folders, which have none.

    Raises MediaError for what is no clip and for a camera that is not there.
    """
    if is_device(path):
        kind, _, index = str(path).partition(":")
        if kind != "camera":
            raise MediaError(f"{path} is an output; an input is a video file, a folder, or camera:0")
        camera: Source = _part("devices").CameraSource(int(index))
        return camera
    if path.is_dir():
        return FolderSource(path, rate)
    if not path.exists():
        raise MediaError(f"{path} does not exist; a clip is a video file or a folder of PNG or JPEG files")
    source: Source = _part("video").VideoSource(path)
    return source


def open_sink(path: Path, rate: Fraction, tick: Fraction, sound_of: Source | None = None) -> Sink:
    """A clip to write at `path`: a video for a video's suffix, with the sound of `sound_of` where that has one; a
    `window` or `virtualcam`; otherwise a folder of PNG files. Raises MediaError."""
    sink: Sink
    if is_device(path):
        if str(path) not in ("window", "virtualcam"):
            raise MediaError(f"{path} is an input; an output is a video file, a folder, window, or virtualcam")
        devices = _part("devices")
        sink = devices.WindowSink() if str(path) == "window" else devices.VirtualCameraSink(rate)
        return sink
    if path.suffix.lower() in VIDEO_CODECS:
        sink = _part("video").VideoSink(path, rate, tick, sound_of)
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


class FolderSink(Sink):
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


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def _part(name: str) -> ModuleType:
    """A module that needs an extra, imported where it is first wanted."""
    try:
        return importlib.import_module(f"legato_client.{name}")
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise MediaError(
            "video files need PyAV: pip install 'legato-client[video]' (folders of PNG or JPEG work without)"
        ) from None
