"""InvertClip as data: what is sent, and what comes of the answers. Both clients run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias, TypedDict

from legato_client import clip_wire
from legato_client.calls import EVERYTHING
from legato_client.clip_types import ClipFrame, ClipInversion, ClipProgress
from legato_client.errors import InvalidInput, ServerError
from legato_client.images import Picture
from legato_client.media import open_source
from legato_client.types import Edits, Outputs, edit_list
from legato_pb import inversion_pb2 as pb

Clip: TypeAlias = Iterable[Picture] | str | Path
"""Frames in order, or the path of a video file or of a folder of PNG or JPEG files."""

OnProgress: TypeAlias = Callable[[ClipProgress], object]


class ClipOptions(TypedDict, total=False):
    """Options of `invert_clip`."""

    model: str
    """Name from `list_models`; empty: the server's default."""
    edits: Edits
    """What `edited` shows; none: no edited image."""
    outputs: Outputs
    """Default: everything, as PNG."""


class ClipCall:
    """One call: `requests` to send; every answer goes to `take`; then `result`.

    Raises InvalidImage for a frame that is none, MediaError for a path that holds no clip.
    """

    def __init__(
        self,
        frames: Clip,
        method: str,
        on_progress: OnProgress | None,
        *,
        model: str = "",
        edits: Edits = (),
        outputs: Outputs = EVERYTHING,
    ) -> None:
        # All at once, before the call: an error in the middle of it would reach gRPC's own thread, not the caller.
        self.requests = clip_wire.clip(_pictures(frames), method, model, edit_list(edits), outputs)
        self._on_progress = on_progress
        self._frames: list[ClipFrame] = []
        self._found: ClipInversion | None = None

    def take(self, answer: pb.InvertClipResponse) -> None:
        """Takes an answer in; what `on_progress` raises goes through."""
        if answer.HasField("frame"):
            self._frames.append(clip_wire.read_frame(answer.frame))
        elif answer.HasField("done"):
            self._found = clip_wire.read_done(answer.done, self._frames)
        elif self._on_progress is not None and (progress := clip_wire.read_progress(answer)) is not None:
            self._on_progress(progress)

    def result(self) -> ClipInversion:
        """The inverted clip, once the answers have ended."""
        if self._found is None:
            raise ServerError("the server ended the answers of this clip before it was done")
        return self._found


def _pictures(frames: Clip) -> Iterator[Picture]:
    if isinstance(frames, str | Path):
        yield from (picture for _, picture in open_source(Path(frames), Fraction(25)).frames())
    elif isinstance(frames, bytes | bytearray | memoryview):
        raise InvalidInput("a clip is its frames in order, or a path; got bytes. For one image, give a list of it")
    else:
        yield from frames
