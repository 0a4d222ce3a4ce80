"""Which pictures and clips a command is given: files and folders, found and named before anything is decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from legato.errors import ConfigError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi")

Kind = Literal["image", "sequence", "clip"]  # one picture; pictures that are written as a folder; a video


@dataclass(frozen=True, slots=True)
class Source:
    """One input. `name` is that of its outputs, different for each source of a command."""

    name: str
    kind: Kind
    files: tuple[Path, ...]  # pictures in their order, or the one video


def find(paths: Sequence[Path], *, together: bool = False, leave_out: Path | None = None) -> list[Source]:
    """The sources that `paths` mean, in their order.

    An image file is an image, a video file a clip. A folder's images are one sequence in natural order (frame_2 before
    frame_10); its videos are a clip each, and so on down its folders. With `together`, images that are named one by one
    are a sequence too, in the order given. `leave_out` is a folder that is not looked into: where the outputs go.
    Raises ConfigError for what does not exist, is neither image nor video, or holds nothing of them.
    """
    found: list[Source] = []
    loose: list[Path] = []
    for path in paths:
        suffix = path.suffix.lower()
        if path.is_dir():
            found += _in_folder(path, leave_out)
        elif not path.exists():
            raise ConfigError(f"{path} does not exist; give image files, video files, or folders of them")
        elif suffix in VIDEO_SUFFIXES:
            found.append(Source(path.stem, "clip", (path,)))
        elif suffix not in IMAGE_SUFFIXES:
            raise ConfigError(
                f"{path} is neither an image ({', '.join(IMAGE_SUFFIXES)}) nor a video ({', '.join(VIDEO_SUFFIXES)})"
            )
        elif together:
            loose.append(path)
        else:
            found.append(Source(path.stem, "image", (path,)))
    if len(loose) == 1:
        found.append(Source(loose[0].stem, "image", (loose[0],)))
    elif loose:
        found.append(Source(f"{loose[0].stem}-{loose[-1].stem}", "sequence", tuple(loose)))
    return _named(found)


def _in_folder(folder: Path, leave_out: Path | None) -> list[Source]:
    found = _walk(folder, folder.resolve().name or "root", (), leave_out and leave_out.resolve())
    if not found:
        raise ConfigError(
            f"{folder} holds neither images ({', '.join(IMAGE_SUFFIXES)}) nor videos ({', '.join(VIDEO_SUFFIXES)})"
        )
    return found


def _walk(folder: Path, name: str, below: tuple[str, ...], leave_out: Path | None) -> list[Source]:
    """The sources in a folder: its images as `name`, then its videos, then its folders, named by the way to them."""
    try:
        entries = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=natural)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    files = [path for path in entries if path.is_file()]
    images = tuple(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    found = [Source("-".join(below) or name, "sequence", images)] if images else []
    for path in files:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            found.append(Source("-".join((*below, path.stem)), "clip", (path,)))
    for path in entries:
        if path.is_dir() and path.resolve() != leave_out:
            found += _walk(path, name, (*below, path.name), leave_out)
    return found


def natural(path: Path) -> list[tuple[int, str]]:
    """The key by which frame_2 stands before frame_10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _named(sources: list[Source]) -> list[Source]:
    """The same with names that differ: a second `head` is head-2."""
    taken: set[str] = set()
    named = []
    for source in sources:
        name, count = source.name, 1
        while name.casefold() in taken:  # some file systems hold "Head" and "head" for the same
            count += 1
            name = f"{source.name}-{count}"
        taken.add(name.casefold())
        named.append(replace(source, name=name))
    return named
