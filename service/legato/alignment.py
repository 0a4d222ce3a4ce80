"""Faces in the frames of sessions that ask for them: found, cropped and kept steady before the model sees them.

The work is done by `legato_align`, which the client uses, too. No torch here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from legato.errors import ConfigError, InvalidImage, InvalidInput
from legato.images import Pixels
from legato_align.aligner import Aligner, Alignment
from legato_align.detectors import open_detector
from legato_align.detectors.base import Detector
from legato_align.errors import AlignmentError
from legato_align.geometry import crop
from legato_align.smoothing import Steadiness


@dataclass(frozen=True, slots=True)
class FaceFinder:
    """What this server finds faces with: a detector's name, and its model file or "".

    Raises ConfigError where a detector was named that cannot be had; "auto" may find none, and no session needs one.
    """

    detector: str = "auto"
    model: str = ""

    def __post_init__(self) -> None:
        try:
            self._open()  # and what it imports, before a session waits for it
        except AlignmentError as error:
            if self.detector != "auto" or self.model:
                raise ConfigError(f"server.face_detector: {error}") from None

    def aligner(
        self, *, lock_scale: bool, min_cutoff: float, beta: float, framing: tuple[float, float] = (1.0, 0.0)
    ) -> SessionAligner:
        """For one session; 0 stands for a default. Raises InvalidInput."""
        default = Steadiness()
        try:
            steadiness = Steadiness(min_cutoff or default.min_cutoff, beta or default.beta, lock_scale=lock_scale)
            return SessionAligner(Aligner(self._open(), steadiness, framing=framing))
        except ValueError as error:
            raise InvalidInput(f"alignment: {error}", field="options.alignment") from None
        except AlignmentError as error:
            raise InvalidInput(
                f"this server finds no faces: {error}. Or align in the client",
                reason="ALIGNMENT_NOT_AVAILABLE",
                field="options.alignment",
            ) from None

    def _open(self) -> Detector:
        """A detector of its own for each session: they keep state and are not for several threads."""
        return open_detector(self.detector, Path(self.model) if self.model else None)


class SessionAligner:
    """One session's subject. Frames come one at a time, in order; CPU work, not for the event loop."""

    def __init__(self, aligner: Aligner) -> None:
        self._aligner = aligner
        self._times: tuple[float, float] | None = None  # of the first frame: captured, arrived

    def crop(self, image: Pixels, resolution: int, captured: float, arrived: float) -> tuple[Pixels, Alignment]:
        """The face's crop [R, R, 3] of a frame [H, W, 3], and where it is. Times in seconds; captured 0: unknown.

        Raises InvalidImage, reason NO_FACE, where there is none and none was lately.
        """
        first = self._times = self._times or (captured, arrived)
        time = captured - first[0] if captured and first[0] and math.isfinite(captured) else arrived - first[1]
        found = self._aligner.align(image, time)
        if not found.aligned:
            raise InvalidImage("no face was found in this frame, nor lately", reason="NO_FACE", field="frame.image")
        return np.ascontiguousarray(crop(image, found.crop, resolution)), found
