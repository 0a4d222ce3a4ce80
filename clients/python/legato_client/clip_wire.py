"""Clips to and from the messages of InvertClip."""

from __future__ import annotations

from collections.abc import Iterable

from legato_client import images, wire
from legato_client.clip_types import ClipFrame, ClipInversion, ClipProgress
from legato_client.errors import InvalidImage, ServerError
from legato_client.images import Picture
from legato_client.types import Edit, Outputs
from legato_pb import inversion_pb2 as pb


def clip(
    pictures: Iterable[Picture], method: str, model: str, edits_wanted: Iterable[Edit], outputs_wanted: Outputs
) -> list[pb.InvertClipRequest]:
    """A clip's messages: its options, then its frames. Raises InvalidImage, which names the frame."""
    options = pb.ClipOptions(
        model=model, method=method, edits=wire.edits(edits_wanted), output=wire.outputs(outputs_wanted)
    )
    messages = [pb.InvertClipRequest(options=options)]
    for index, picture in enumerate(pictures):
        try:
            messages.append(pb.InvertClipRequest(frame=wire.image(images.packed(picture, "auto"))))
        except InvalidImage as error:
            raise InvalidImage(f"frame {index}: {error}", fields=(f"frames[{index}]",)) from None
    return messages


def read_progress(message: pb.InvertClipResponse) -> ClipProgress | None:
    """None for an answer that tells of no progress."""
    if message.HasField("queued"):
        return ClipProgress(message.queued.ahead, 0, 0, 0.0, 0.0)
    if not message.HasField("progress"):
        return None
    told = message.progress
    return ClipProgress(0, told.step, told.steps, told.seconds, told.seconds_left)


def read_frame(message: pb.ClipFrame) -> ClipFrame:
    return ClipFrame(index=message.index, **wire.read_answer(message))


def read_done(message: pb.ClipDone, frames: Iterable[ClipFrame]) -> ClipInversion:
    """Raises ServerError where frames are missing."""
    found = ClipInversion(
        frames=tuple(frames),
        method=message.method,
        steps=message.steps,
        seconds=message.seconds,
        passes_per_frame=message.passes_per_frame,
        model_digest=message.model_digest,
        model=wire.read_ref(message.model_ref),
    )
    if len(found.frames) != message.frames:
        raise ServerError(f"the server speaks of {message.frames} frames and sent {len(found.frames)}")
    return found
