"""A source as frames of the model's size, with what they were called and when they were shown.

Every frame is letterboxed by the rule of the server (`legato.images.fit`), or cropped to its central square where that
is asked for. Photos that say so are turned upright.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from legato.errors import ConfigError, InvalidImage
from legato.images import JPEG_START, PNG_SIGNATURE, Pixels, crop, decode_jpeg, decode_png, fit
from legato.offline.sources import Kind, Source
from legato.synthetic.dataset import from_uint8


@dataclass(frozen=True, slots=True)
class Timing:
    """When the frames of a video are shown: at pts * tick seconds, counted from the first."""

    rate: Fraction  # frames per second, on average
    tick: Fraction  # seconds
    pts: tuple[int, ...]  # one a frame, rising


@dataclass(frozen=True, slots=True)
class Reading:
    """Which frames of a source are taken, and how those of another shape are made square."""

    first: int | None = None  # negative: counted from the end
    end: int | None = None
    square: Literal["letterbox", "crop"] = "letterbox"

    @property
    def part(self) -> slice:
        return slice(self.first, self.end)

    def fitted(self, pixels: Pixels, resolution: int) -> Pixels:
        """[H, W, 3] -> [R, R, 3]."""
        return (crop if self.square == "crop" else fit)(pixels, resolution)


ALL_LETTERBOXED = Reading()


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A source that was read."""

    name: str
    kind: Kind
    frames: NDArray[np.uint8]  # [T, R, R, 3] RGB
    labels: tuple[str, ...]  # one a frame: names of files without suffix, numbers of a video
    timing: Timing | None  # of a video
    fitted: str  # what was resized, for the user; "" where nothing was
    skipped: tuple[str, ...]  # files, or the rest of a video, that could not be read, and why

    @property
    def images(self) -> Tensor:
        """[T, 3, R, R] in [-1, 1]."""
        return from_uint8(from_numpy(self.frames).permute(0, 3, 1, 2)).contiguous()


def read(source: Source, resolution: int, *, most: int | None = None, how: Reading = ALL_LETTERBOXED) -> Item:
    """The frames of a source at `resolution`, of a video the first `most`; of them what `how` says.

    Files that cannot be read are left out and told in `skipped`.

    Raises InvalidImage where nothing of it can be read, ConfigError for a video without PyAV.
    """
    if source.kind == "clip":
        frames, sizes, timing, skipped = video().read_video(source.files[0], resolution, most, how.fitted)
        labels = [f"{index:06d}" for index in range(len(frames))]
    else:
        frames, sizes, labels, skipped, timing = [], [], [], [], None
        names = _labels(source.files)
        for path, label in zip(source.files, names, strict=True):
            try:
                pixels = read_image(path)
            except InvalidImage as error:
                skipped.append(str(error))
                continue
            sizes.append((pixels.shape[1], pixels.shape[0]))
            frames.append(how.fitted(pixels, resolution))
            labels.append(label)
    if not frames:
        raise InvalidImage(skipped[0] if len(skipped) == 1 else f"{source.name}: none of its files can be read")
    frames, sizes, labels = frames[how.part], sizes[how.part], labels[how.part]
    if not frames:
        raise InvalidImage(f"{source.name}: none of its frames are those that --frames names")
    if timing is not None:
        timing = replace(timing, pts=tuple(pts - timing.pts[how.part][0] for pts in timing.pts[how.part]))
    what = source.files[0].name if len(source.files) == 1 else source.name
    told = _told(what, sizes, resolution, how.square)
    return Item(source.name, source.kind, np.stack(frames), tuple(labels), timing, told, tuple(skipped))


def read_image(path: Path) -> Pixels:
    """An image file as uint8 [H, W, 3] RGB, upright. Raises InvalidImage, which names the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidImage(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise InvalidImage(f"{path} is empty")
    try:
        # What is cut off is found here: the decoder below fills it with gray, without a word.
        if data.startswith(JPEG_START):
            decode_jpeg(data)
        elif data.startswith(PNG_SIGNATURE):
            decode_png(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except InvalidImage as error:
        raise InvalidImage(f"{path} cannot be read: {error}") from error
    except cv2.error as error:
        raise InvalidImage(f"{path} cannot be decoded: {error.err or error}") from error
    if image is None:
        raise InvalidImage(f"{path} is no image that can be decoded; it begins with {data[:8].hex(' ')}")
    return np.asarray(image, np.uint8)


def video() -> ModuleType:
    """`legato.offline.video`. Raises ConfigError without PyAV."""
    try:
        return importlib.import_module("legato.offline.video")
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise ConfigError(
            "video files need PyAV: pip install 'legato[video]' (folders of images work without it)"
        ) from None


def _labels(files: Sequence[Path]) -> list[str]:
    """Names for the outputs, that differ: the stem, or the whole name where two files share a stem."""
    stems = Counter(path.stem.casefold() for path in files)
    names = [path.stem if stems[path.stem.casefold()] == 1 else path.name.replace(".", "_") for path in files]
    if len({name.casefold() for name in names}) < len(names):  # files of one name in several folders
        return [f"{index:06d}_{path.stem}" for index, path in enumerate(files)]
    return names


def _told(name: str, sizes: Sequence[tuple[int, int]], resolution: int, square: str) -> str:
    """What the letterbox did, for instance "photo.jpg: 640x480 -> 128x128, letterboxed"."""
    others = Counter(size for size in sizes if size != (resolution, resolution))
    if not others:
        return ""
    uneven = "cropped to the middle" if square == "crop" else "letterboxed"
    done = uneven if any(width != height for width, height in others) else "resized"
    target = f"{resolution}x{resolution}, {done}"
    if len(set(sizes)) == 1:
        (width, height), count = next(iter(others.items()))
        return f"{name}: {f'{count} frames of ' if count > 1 else ''}{width}x{height} -> {target}"
    listed = ", ".join(f"{count} of {width}x{height}" for (width, height), count in Counter(sizes).most_common(4))
    more = " and others" if len(set(sizes)) > 4 else ""
    return f"{name}: {len(sizes)} frames of {len(set(sizes))} sizes ({listed}{more}) -> {target}"
