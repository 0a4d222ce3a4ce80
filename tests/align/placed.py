"""Rendered heads in larger frames, placed, turned and moved by a transform that is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

import legato
from legato_align.detectors.base import Face
from legato_align.geometry import EYES_APART, MOUTH_BELOW, Pixels, Similarity
from legato_align.paste import Paster, Seam

CLIP = Path(legato.__file__).parent / "assets" / "heads-128" / "clip.mp4"
FOOTAGE = Path(__file__).resolve().parents[3] / "shared" / "media" / "talking_head.mp4"
WIDTH, HEIGHT, RATE = 320, 240, 25.0
# Eyes and mouth of FFHQ's mean face in the unit crop.
MARKS = np.array([(0.5 - EYES_APART / 2, 0.469), (0.5 + EYES_APART / 2, 0.469), (0.5, 0.469 + MOUTH_BELOW)])


def heads(count: int) -> list[Pixels]:
    """The first frames of the bundled clip of one rendered head, [128, 128, 3]."""
    with av.open(str(CLIP)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), count)]
    assert len(frames) == count
    return [np.asarray(frame, np.uint8) for frame in frames]


def room(seed: int = 0) -> Pixels:
    """A smooth, colored background [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(60, 200, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def path(time: float) -> Similarity:
    """Where the head is: it wanders, nods and comes nearer, as a person before a camera does."""
    return Similarity(
        160 + 26 * math.sin(1.1 * time),
        118 + 9 * math.sin(1.7 * time + 1),
        120 * math.exp(0.1 * math.sin(0.6 * time)),
        0.15 * math.sin(0.9 * time),
    )


def frame_of(head: Pixels, where: Similarity, seed: int = 0) -> Pixels:
    return Paster(Seam(color=False, feather=0.12)).place(room(seed), head, where)


def footage(count: int) -> Iterator[tuple[float, Pixels, Similarity]]:
    """Time in seconds, frame, and the true place of its head."""
    for index, head in enumerate(heads(count)):
        time = index / RATE
        yield time, frame_of(head, path(time)), path(time)


def face_at(where: Similarity, noise: NDArray[np.float64] | None = None) -> Face:
    """The face that a perfect detector would see there; `noise` [3, 2] in pixels is added to its landmarks."""
    at = where.to_frame(MARKS) + (0 if noise is None else noise)
    box = (where.x - 0.3 * where.side, where.y - 0.3 * where.side, 0.6 * where.side, 0.6 * where.side)
    return Face(box, 0.9, at[:2], at[2])


@dataclass
class Informed:
    """A detector that knows the truth and errs by Gaussian noise (pixels); in `missing` frames it finds nothing."""

    truth: list[Similarity]
    noise: float = 0.0
    missing: range = range(0)
    name: str = "informed"
    note: str = ""
    calls: list[int] = field(default_factory=list)
    frame: int = -1

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(0)

    def at(self, index: int) -> None:
        """The frame that is asked about next."""
        self.frame = index

    def find(self, frame: Pixels, near: Similarity | None) -> list[Face]:
        self.calls.append(self.frame)
        noise = self._random.normal(0, self.noise, (3, 2))
        return [] if self.frame in self.missing else [face_at(self.truth[self.frame], noise)]


def jitter(centers: NDArray[np.float64]) -> float:
    """Root mean square of the second difference [T, 2], in pixels."""
    return float(np.sqrt((np.diff(centers, 2, axis=0) ** 2).sum(axis=1).mean()))
