"""A box that the user draws around the face of the first frame: no detector; flow follows it from there."""

from __future__ import annotations

from legato_align.detectors.base import Face
from legato_align.geometry import Pixels, Similarity


class DrawnBox:
    """Finds its face once, where it was drawn; after a cut it knows nothing any more."""

    name = "box"
    note = "the face is followed from the box that was drawn, by flow alone: it may drift, and is lost at a cut"

    def __init__(self, box: tuple[float, float, float, float]) -> None:
        if not (box[2] >= 16 and box[3] >= 16):
            raise ValueError(f"a face's box is X,Y,WIDTH,HEIGHT in pixels, 16 wide and high at least; got {box}")
        self._box: tuple[float, float, float, float] | None = box

    def find(self, frame: Pixels, near: Similarity | None) -> list[Face]:
        """The box, on the first call; then nothing."""
        box, self._box = self._box, None
        return [] if box is None else [Face(box, 1.0)]
