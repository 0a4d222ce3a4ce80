"""Sound beside a video: its packets, copied as they are. Imported only by `video`: PyAV is the extra `video`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer

_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".webm": "webm"}


class Sound:
    """The audio tracks of a file, given to another without decoding them. `note` says which could not be taken."""

    def __init__(self, path: Path, suffix: str) -> None:
        self._container = av.open(str(path))
        streams = list(self._container.streams.audio)
        self._taken = [stream for stream in streams if _fits(stream, suffix)]
        left = sorted({stream.codec_context.name for stream in streams if stream not in self._taken})
        self.note = f"sound left out: {suffix} takes no {', '.join(left)}; write an .mkv" if left else ""
        self._packets: Iterator[Any] = iter(())
        self._next: Any = None
        self._tracks: dict[int, Any] = {}
        self._begins = Fraction(0)

    def attach(self, output: OutputContainer, begins: Fraction) -> None:
        """Adds the tracks to a file that holds its video stream already; `begins`: the time, in seconds, of the frame
        that the new file counts from."""
        self._begins = begins
        self._tracks = {stream.index: output.add_stream_from_template(stream) for stream in self._taken}
        if self._taken:
            self._packets = self._container.demux(self._taken)
            self._next = self._following()

    def copy_until(self, output: OutputContainer, seconds: Fraction | None) -> None:
        """Writes the packets up to a time of the new file; None: all that are left."""
        while self._next is not None and (seconds is None or self._time(self._next) <= seconds):
            packet, self._next = self._next, self._following()
            shift = round(self._begins / packet.time_base)
            packet.pts = packet.pts - shift if packet.pts is not None else None
            packet.dts -= shift
            packet.stream = self._tracks[packet.stream.index]
            output.mux(packet)

    def close(self) -> None:
        self._container.close()

    def _time(self, packet: Any) -> Fraction:
        return Fraction(packet.dts * packet.time_base) - self._begins

    def _following(self) -> Any:
        return next((packet for packet in self._packets if packet.dts is not None), None)


def _fits(stream: Any, suffix: str) -> bool:
    """Whether a file of that kind takes the track; asked of the muxer itself."""
    try:
        with av.open(io.BytesIO(), "w", format=_FORMATS[suffix]) as probe:
            probe.add_stream_from_template(stream)
            probe.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True
