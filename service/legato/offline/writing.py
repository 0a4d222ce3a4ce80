"""Outputs, whole or not at all: a file appears under its name when everything is in it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from legato.errors import ConfigError
from legato.offline.reading import Timing, video
from legato.offline.sources import Kind


class Shown(Protocol):
    """How an item came in, and hence how pictures of it go out: `reading.Item`, `codes.Codes`."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def timing(self) -> Timing | None: ...


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives the name to write under; what is there at the end takes the place of `path`. Makes folders.

    Raises ConfigError for an OSError on the way, a full disk for instance; what stood at `path` before still does.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}. Make room, or name another folder; what was written "
            "before is still there"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes RGB [H, W, 3]. Raises ConfigError."""
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))
    with whole(path) as partial:
        partial.write_bytes(encoded.tobytes())


def write_json(path: Path, value: Any) -> None:
    """Writes JSON for people. Raises ConfigError."""
    with whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes compressed arrays. Raises ConfigError."""
    with whole(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_frames(folder: Path, name: str, images: NDArray[np.uint8], item: Shown) -> Path:
    """Writes [T, R, R, 3] as the item came in: name.png, name/LABEL.png for each, or name.mp4 with the same times.

    Returns what was written. Raises ConfigError, ValueError for another number of frames than the item has.
    """
    if len(images) != len(item.labels):
        raise ValueError(f"{item.name} has {len(item.labels)} frames; got {len(images)}")
    if item.timing is not None:
        target = folder / f"{name}.mp4"
        with whole(target) as partial:
            video().write_video(partial, images, item.timing)
    elif item.kind == "image":
        target = folder / f"{name}.png"
        write_png(target, images[0])
    else:
        target = folder / name
        for label, image in zip(item.labels, images, strict=True):
            write_png(target / f"{label}.png", image)
    return target
