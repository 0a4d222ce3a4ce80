"""Renders as files that people look at: picture sheets, folders of PNG, video."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from legato.errors import ConfigError

if TYPE_CHECKING:
    from av.container import OutputContainer

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")
_QUALITY = {"crf": "12", "preset": "slow"}  # of H.264; 18 is where most people see no difference any more

Images = NDArray[np.uint8]  # [N, R, R, 3] RGB


def sheet(images: Images, columns: int) -> NDArray[np.uint8]:
    """One picture [rows * R, columns * R, 3] of them all, row by row; what is left of the last row is black."""
    count, side = images.shape[:2]
    columns = min(columns, count)
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, side, side, 3), np.uint8)
    cells[:count] = images
    return cells.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes RGB [H, W, 3]; the file appears when it is whole."""
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(encoded.tobytes())
    os.replace(partial, path)


def write_clip(path: Path, images: Images, fps: float) -> None:
    """Writes a video where `path` ends as one, and 000000.png ... into a folder otherwise.

    Raises ConfigError without PyAV, for another suffix, and for a folder with pictures that would mix with the clip's.
    """
    check_clip_path(path, len(images))
    if path.suffix in VIDEO_SUFFIXES:
        _write_video(path, images, fps)
        return
    path.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        write_png(path / f"{index:06d}.png", image)


def check_clip_path(path: Path, frames: int) -> None:
    """Raises what `write_clip` would, before minutes have gone into rendering."""
    if path.suffix in VIDEO_SUFFIXES:
        try:
            import av  # noqa: F401
        except ModuleNotFoundError:
            raise ConfigError(
                f"{path} needs PyAV (pip install 'legato[video]'); a name without a suffix gives a folder of PNG"
            ) from None
    elif path.suffix and not path.is_dir():
        raise ConfigError(f"{path}: a clip is {', '.join(VIDEO_SUFFIXES)}, or a folder (a name without a suffix)")
    elif path.is_file():
        raise ConfigError(f"{path} is a file; a folder of PNG was to be written there")
    else:
        own = {f"{index:06d}.png" for index in range(frames)}
        if other := sorted(file.name for file in path.glob("*.png") if file.name not in own):
            raise ConfigError(f"{path} holds pictures of something else ({other[0]}); take an empty folder")


def _write_video(path: Path, images: Images, fps: float) -> None:
    import av

    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    container: OutputContainer
    with av.open(str(partial), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=_QUALITY)
        stream.height, stream.width = images.shape[1:3]
        odd = stream.height % 2 or stream.width % 2
        stream.pix_fmt = "yuv444p" if odd else "yuv420p"  # every player shows the latter, but it halves the sides
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode(None))
    os.replace(partial, path)
