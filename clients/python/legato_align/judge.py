"""Whether a picture looks like the aligned crops that a model of faces was trained on."""

from __future__ import annotations

from legato_align.detectors.base import Face
from legato_align.geometry import Pixels, centered

_SIZES = 0.72, 1.4  # the picture's side over that of the face's FFHQ crop
_OFF = 0.16  # of the picture's side


def complaint(frame: Pixels, faces: list[Face]) -> str:
    """What speaks against the frame [H, W, 3] being an aligned crop of its largest face; empty: nothing does.

    A picture without a face says nothing: not every model is one of faces, and no detector finds all.
    """
    height, width = frame.shape[:2]
    if not 0.95 < width / height < 1.05:
        return f"frames are {width}x{height}, not square: they come letterboxed"
    if not faces:
        return ""
    crop, square = faces[0].crop, centered(width, height)
    ratio = square.side / crop.side
    if not _SIZES[0] < ratio < _SIZES[1]:
        size = "small" if ratio > 1 else "large"
        return f"the face is too {size}: its aligned crop would be {crop.side:.0f} of {square.side:.0f} pixels wide"
    across, down = crop.x - square.x, crop.y - square.y
    if max(abs(across), abs(down)) > _OFF * square.side:
        return f"the face lies {across:+.0f} pixels across and {down:+.0f} down from where an aligned crop has it"
    return ""
