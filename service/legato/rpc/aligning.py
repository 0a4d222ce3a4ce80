"""Alignment on the wire: what an open asks for, the crop of a frame, and what the answer says of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from legato.alignment import FaceFinder, SessionAligner
from legato.types import Frame
from legato.work import Work
from legato_align.aligner import Alignment
from legato_pb import inversion_pb2 as pb

if TYPE_CHECKING:
    from legato.rpc.messages import Reader


def aligner(faces: FaceFinder, options: pb.SessionOptions) -> SessionAligner | None:
    """What finds the faces of a session that asks for it. Raises InvalidInput."""
    if not options.HasField("alignment"):
        return None
    asked = options.alignment
    return faces.aligner(
        lock_scale=asked.lock_scale,
        min_cutoff=asked.min_cutoff_hz,
        beta=asked.beta,
        framing=(asked.scale or 1.0, asked.down),
    )


def frame(reader: Reader, aligner: SessionAligner | None, request: pb.FrameInput, work: Work) -> Frame:
    """The model's square of a frame: its face's crop, or the whole of it. CPU work; not for the event loop."""
    if aligner is None:
        return reader.frame(request.image)
    pixels, times = reader.pixels(request.image), (request.capture_time, work.arrival)
    cropped, work.alignment = aligner.crop(pixels, reader.model.resolution, *times)
    return Frame(cropped)


def message(found: Alignment | None) -> pb.FrameAlignment | None:
    """Where a frame's crop lies; None where the session asked for none."""
    if found is None:
        return None
    where = dataclasses.asdict(found.crop)
    return pb.FrameAlignment(aligned=found.aligned, held=found.held, confidence=found.confidence, **where)
