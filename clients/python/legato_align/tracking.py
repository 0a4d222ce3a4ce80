"""One face through a clip: detections, flow between them, flow alone where they fail, a new start after a cut."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from legato_align.detectors.base import Detector, Face
from legato_align.geometry import Pixels, Similarity, wrapped
from legato_align.motion import Gray, face_motion, gray_of, is_cut
from legato_align.smoothing import gain

HOLD_SECONDS = 2.0
_TRUST_CUTOFF = 1.0  # Hz, with which detections, which jitter, correct flow, which drifts
_CONFIDENCE_SECONDS = 1.5  # in which the confidence of a held crop falls to 1 / e
_BLIND = 0.3  # what is left of it where flow fails, too
_SWITCH_FRAMES = 5  # detections in a row elsewhere, after which the face is there


@dataclass(frozen=True, slots=True)
class Found:
    """Where the face is in a frame, before smoothing. `crop` is None where there is none.

    held: no detection, flow (or nothing) carried the crop here. begins: another face, or one after a cut.
    """

    crop: Similarity | None
    held: bool
    confidence: float
    begins: bool


class Tracker:
    """Follows the largest face of the first frame that has one. `every`: detections are made in every n-th frame."""

    def __init__(
        self, detector: Detector, *, hold_seconds: float = HOLD_SECONDS, every: int = 1, raw: bool = False
    ) -> None:
        if every < 1 or not hold_seconds >= 0:
            raise ValueError(f"every >= 1 and hold_seconds >= 0; got {every} and {hold_seconds}")
        self._detector, self._hold_seconds, self._every, self._raw = detector, hold_seconds, every, raw
        self._before: Gray | None = None
        self._time = 0.0
        self._seen = 0.0  # when a detection last corrected the crop
        self._frames = 0
        self._crop: Similarity | None = None
        self._held_since: float | None = None
        self._score = 0.0
        self._elsewhere = 0

    def find(self, frame: Pixels, time: float) -> Found:
        """The face of the next frame, uint8 [H, W, 3], at `time` in seconds."""
        gray, before = gray_of(frame), self._before
        step, self._time, self._before = time - self._time, time, gray
        if before is not None and is_cut(before, gray):
            self._lose()
        agreement = 1.0
        if self._crop is not None and before is not None and not self._raw:
            agreement = self._carry(before, gray)
        due = self._frames % self._every == 0 or self._crop is None or agreement < 0.5 or self._held_since is not None
        self._frames += 1
        if not due and self._crop is not None:
            return Found(self._crop, False, self._score * agreement, False)
        return self._look(frame, step, agreement)

    def _look(self, frame: Pixels, step: float, agreement: float) -> Found:
        faces = self._detector.find(frame, self._crop)
        face = self._nearest(faces)
        if face is not None:
            begins, self._held_since, self._elsewhere = self._crop is None, None, 0
            self._score = face.score
            since, self._seen = self._time - self._seen, self._time
            self._crop = face.crop if self._crop is None or self._raw else _between(self._crop, face.crop, since)
            return Found(self._crop, False, self._score, begins)
        if faces and self._crop is not None:
            self._elsewhere += 1
            if self._elsewhere >= _SWITCH_FRAMES:
                self._lose()
                return self._look(frame, step, 1.0)
        if self._crop is None:
            return Found(None, False, 0.0, False)
        if self._held_since is None:
            self._held_since = self._time - max(step, 0.0)
        held = self._time - self._held_since
        if held > self._hold_seconds:
            self._lose()
            return Found(None, False, 0.0, False)
        confidence = self._score * agreement * math.exp(-held / _CONFIDENCE_SECONDS)
        return Found(self._crop, True, confidence, False)

    def _carry(self, before: Gray, gray: Gray) -> float:
        """Moves the crop as its face has moved; how far that can be trusted, 0..1."""
        assert self._crop is not None
        motion = face_motion(before, gray, self._crop)
        if motion is None:
            return _BLIND
        self._crop = self._crop.moved(motion.matrix)
        return motion.agreement

    def _nearest(self, faces: list[Face]) -> Face | None:
        """The face that continues the crop; of a new one, the best."""
        if self._crop is None:
            return faces[0] if faces else None
        crop = self._crop
        near = [
            (math.hypot(face.crop.x - crop.x, face.crop.y - crop.y), face)
            for face in faces
            if 0.6 < face.crop.side / crop.side < 1.6
        ]
        distance, face = min(near, key=lambda pair: pair[0], default=(math.inf, None))
        return face if distance < 0.5 * crop.side else None

    def _lose(self) -> None:
        self._crop = self._held_since = None
        self._score, self._elsewhere = 0.0, 0


def _between(carried: Similarity, found: Similarity, step: float) -> Similarity:
    """From where flow has it a part of the way to where the detector has it."""
    part = float(np.clip(gain(_TRUST_CUTOFF, max(step, 0.0)), 0.0, 1.0))
    return Similarity(
        carried.x + part * (found.x - carried.x),
        carried.y + part * (found.y - carried.y),
        carried.side * (found.side / carried.side) ** part,
        wrapped(carried.angle + part * wrapped(found.angle - carried.angle)),
    )
