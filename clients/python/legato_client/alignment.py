"""What a session may ask of a server that finds faces, and what it says of each frame."""

from __future__ import annotations

from dataclasses import dataclass

from legato_pb import inversion_pb2 as pb


@dataclass(frozen=True, slots=True)
class Alignment:
    """Asks the server to find the face in every frame. `min_cutoff` (Hz) and `beta` are the One-Euro filter's; 0: the
    server's defaults. `lock_scale` keeps the crop's size. `scale` and `down` (in sides) lead from FFHQ's crop to the
    model's own."""

    lock_scale: bool = False
    min_cutoff: float = 0.0
    beta: float = 0.0
    scale: float = 1.0
    down: float = 0.0


@dataclass(frozen=True, slots=True)
class FrameAlignment:
    """The square crop of a frame that was inverted: center (x, y) and side in its pixels, angle in radians, clockwise.

    aligned: it is a face's. held: no detection in this frame, it was carried on. confidence: 0..1.
    """

    aligned: bool
    held: bool
    confidence: float
    x: float
    y: float
    side: float
    angle: float


def message(value: Alignment | None) -> pb.AlignmentOptions | None:
    """What an open says of alignment; nothing where none is asked for."""
    if value is None:
        return None
    return pb.AlignmentOptions(
        lock_scale=value.lock_scale,
        min_cutoff_hz=value.min_cutoff,
        beta=value.beta,
        scale=value.scale,
        down=value.down,
    )


def read(found: pb.FrameAlignment) -> FrameAlignment:
    """What a result says of it."""
    where = (found.x, found.y, found.side, found.angle)
    return FrameAlignment(found.aligned, found.held, found.confidence, *where)
