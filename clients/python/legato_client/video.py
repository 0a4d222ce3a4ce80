"""Video files, by PyAV. Imported only where a video is read or written: PyAV is the extra `video`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from legato_client.images import Image, Picture
from legato_client.media import VIDEO_CODECS, MediaError, Shot, Sink, Source
from legato_client.sound import Sound

_BT601, _BT709 = 5, 1  # matrices of luma and chroma, by the numbers of ITU-T H.273
_HD_LINES = 720
_QUALITY = {"libx264": {"crf": "14", "preset": "fast"}, "libvpx-vp9": {"crf": "20", "b": "0", "deadline": "realtime"}}


class VideoSource:
    """The first video stream of a file, upright, as uint8 [H, W, 3] RGB. Times count from its first frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begins = Fraction(0)  # the file's time of its first frame, in seconds; known once that was read
        with self._open() as container:
            stream = container.streams.video[0]
            self.count: int | None = stream.frames or None
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self.tick = Fraction(stream.time_base or 1 / self.rate)

    def frames(self) -> Iterator[tuple[Shot, Picture]]:
        first = 0
        with self._open() as container:
            for index, frame in enumerate(self._decoded(container)):
                pts = round(index / self.rate / self.tick) if frame.pts is None else frame.pts
                if index == 0:
                    first, self.begins = pts, pts * self.tick
                yield Shot(index, pts - first, f"{index:06d}", frame.duration or 0), _upright(frame)

    def _open(self) -> InputContainer:
        try:
            container = av.open(str(self.path))
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"{self.path} is not a video that can be read ({error})") from None
        if not container.streams.video:
            container.close()
            raise MediaError(f"{self.path} holds no video stream")
        container.streams.video[0].thread_type = "AUTO"
        return container

    def _decoded(self, container: InputContainer) -> Iterator[VideoFrame]:
        try:
            yield from container.decode(video=0)
        except av.FFmpegError as error:
            raise MediaError(f"{self.path} is damaged from here on ({error})") from None


class VideoSink(Sink):
    """A video file at the times of the frames that came in, with the sound of `sound_of`. It appears with its first
    frame; `note` then says what of the sound could not be taken along."""

    def __init__(self, path: Path, rate: Fraction, tick: Fraction, sound_of: Source | None = None) -> None:
        self._path, self._rate, self._tick = path, rate, tick
        self._source = sound_of if isinstance(sound_of, VideoSource) else None
        self._sound: Sound | None = None
        self._durations: dict[int, int] = {}
        self.note = ""
        self._codec = VIDEO_CODECS[path.suffix.lower()]
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._last = -1

    def write(self, image: Image, shot: Shot) -> None:
        with self._told():
            if self._container is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._container = av.open(str(self._path), "w")
            stream = self._stream or self._add_stream(self._container, image.pixels)
            self._last = max(shot.pts, self._last + 1)  # a container takes no time twice
            rgb = VideoFrame.from_ndarray(np.ascontiguousarray(image.pixels), format="rgb24")
            frame = rgb.reformat(format=stream.pix_fmt, dst_colorspace=stream.codec_context.colorspace)
            frame.pts, frame.time_base = self._last, self._tick
            self._durations[self._last] = shot.ticks
            self._encode(stream, self._container, frame)
            if self._sound is not None:
                self._sound.copy_until(self._container, self._last * self._tick)

    def close(self) -> None:
        container, self._container = self._container, None
        if container is None:
            return
        with self._told():
            if self._stream is not None:
                self._encode(self._stream, container, None)
            if self._sound is not None:
                self._sound.copy_until(container, None)
                self._sound.close()
            container.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._container = None
            raise MediaError(f"{self._path} cannot be written ({error})") from None

    def _encode(self, stream: VideoStream, container: OutputContainer, frame: VideoFrame | None) -> None:
        for packet in stream.encode(frame):
            if packet.pts is not None and (ticks := self._durations.pop(packet.pts, 0)):
                packet.duration = max(1, round(ticks * self._tick / packet.time_base))
            container.mux(packet)

    def _add_stream(self, container: OutputContainer, pixels: NDArray[np.uint8]) -> VideoStream:
        stream = container.add_stream(self._codec, rate=self._rate, options=_QUALITY[self._codec])
        if not isinstance(stream, VideoStream):
            raise MediaError(f"PyAV knows no video codec {self._codec}")
        stream.height, stream.width = pixels.shape[:2]
        even = stream.height % 2 == 0 and stream.width % 2 == 0
        stream.pix_fmt = "yuv420p" if even else "yuv444p"  # halved chroma needs even sides
        stream.codec_context.time_base = self._tick
        stream.codec_context.colorspace = _BT709 if stream.height >= _HD_LINES else _BT601
        if self._source is not None:
            self._sound = Sound(self._source.path, self._path.suffix.lower())
            self._sound.attach(container, self._source.begins)
            self.note = self._sound.note
        container.start_encoding()  # opens the file now, not when the encoder's first packet is ready
        self._stream = stream
        return stream


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round(frame.rotation / 90) % 4  # phones store a turned picture and say so
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
