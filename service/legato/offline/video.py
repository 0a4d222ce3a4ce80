"""Video files, by PyAV: frames in with their times, frames out at the same times. Imported only where one is read or
written: PyAV is the extra `video`, and `reading.video` says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from legato.errors import InvalidImage
from legato.images import Pixels, fit
from legato.offline.reading import Timing

_QUALITY = {"crf": "12", "preset": "slow"}  # of H.264; 18 is where most people see no difference any more

Video = tuple[list[Pixels], list[tuple[int, int]], Timing, list[str]]


def read_video(
    path: Path, resolution: int, most: int | None = None, fitted: Callable[[Pixels, int], Pixels] = fit
) -> Video:
    """The first `most` frames `fitted` to `resolution`, their sizes (width, height) before, their times, and what could
    not be read.

    Raises InvalidImage for a file that is no video.
    """
    frames: list[Pixels] = []
    sizes: list[tuple[int, int]] = []
    times: list[int] = []
    damage: list[str] = []
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise InvalidImage(f"{path} is no video that can be read ({_reason(error)})") from error
    with container:
        if not container.streams.video:
            raise InvalidImage(f"{path} holds no pictures, only {', '.join(s.type for s in container.streams)}")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        tick = Fraction(stream.time_base or 1 / rate)
        try:
            for frame in islice(container.decode(video=0), most):
                pixels = _upright(frame)
                sizes.append((pixels.shape[1], pixels.shape[0]))
                frames.append(fitted(pixels, resolution))
                pts = round(len(times) / rate / tick) if frame.pts is None else frame.pts
                times.append(max(pts, times[-1] + 1) if times else pts)
        except av.FFmpegError as error:
            damage.append(f"{path} is damaged after frame {len(frames)} ({_reason(error)}); what comes before is taken")
    if not frames:
        raise InvalidImage(f"{path} holds no frame that can be decoded")
    return frames, sizes, Timing(rate, tick, tuple(pts - times[0] for pts in times)), damage


def each_frame(path: Path) -> Iterator[Pixels]:
    """The frames of a video one after the other, as they are shown, [H, W, 3].

    Raises InvalidImage for a file that is no video, and at the place where one is damaged.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InvalidImage(f"{path} holds no pictures, only {', '.join(s.type for s in container.streams)}")
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                yield _upright(frame)
    except (av.FFmpegError, OSError) as error:
        raise InvalidImage(f"{path} cannot be read to its end as a video ({_reason(error)})") from error


def write_video(path: Path, images: NDArray[np.uint8], timing: Timing) -> None:
    """Writes [T, R, R, 3] as H.264 at the times of `timing`. Raises OSError."""
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=timing.rate, options=_QUALITY)
            assert isinstance(stream, VideoStream)
            stream.height, stream.width = images.shape[1:3]
            odd = stream.height % 2 or stream.width % 2
            stream.pix_fmt = "yuv444p" if odd else "yuv420p"  # every player shows the latter, but it halves the sides
            stream.codec_context.time_base = timing.tick
            for image, pts in zip(images, timing.pts, strict=True):
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts, frame.time_base = pts, timing.tick
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise OSError(error.errno, _reason(error), str(path)) from error


def _upright(frame: VideoFrame) -> Pixels:
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round(frame.rotation / 90) % 4  # phones store a turned picture and say so
    return np.rot90(pixels, turns) if turns else pixels


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)
