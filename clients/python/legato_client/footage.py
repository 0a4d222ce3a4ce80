"""Real footage through a session: faces found, cropped and steadied, and what came of them put back in their frames.

    frames -> Aligner -> crops -> session -> pictures -> Paster -> frames

Imported only where footage is aligned: it needs OpenCV, the extra `face`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from legato_align.aligner import Aligner, Alignment
from legato_align.geometry import Pixels, Similarity, centered, crop
from legato_align.paste import Paster, Seam
from legato_client.alignment import FrameAlignment
from legato_client.errors import InvalidImage
from legato_client.images import Picture, unpacked
from legato_client.media import Shot
from legato_client.report import Meter
from legato_client.session import Session
from legato_client.types import Answer, Failed, Frame, FrameResult

Show = Literal["reconstruction", "edited"]
AHEAD_SECONDS = 0.3  # that files are smoothed with; a live stream has none
NO_FACE = "NO_FACE"  # the reason of a frame in which a server that aligns found no face
_IN_FLIGHT = 4


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A frame of the footage with what stands in it now.

    pixels: uint8 [H, W, 3], the frame with the picture pasted in; the frame as it came where `result` is None: no face
    was there, or the server had no answer yet. variants: the same with each variant's picture, by name. replaced: the
    server did not answer this frame; the picture is the last good one, if there is one.
    """

    shot: Shot
    pixels: Pixels
    variants: Mapping[str, Pixels]
    alignment: Alignment
    result: FrameResult | None
    replaced: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Sent:
    shot: Shot
    frame: Pixels
    alignment: Alignment
    seq: int | None


def place(
    session: Session,
    frames: Iterable[tuple[Shot, Picture]],
    tick: Fraction,
    aligner: Aligner | None,
    *,
    show: Show = "reconstruction",
    ahead: float = 0.0,
    seam: Seam | None = None,
    variants: Iterable[str] = (),
    meter: Meter | None = None,
) -> Iterator[Placed]:
    """Sends the face of every frame through a fresh session and yields every frame, in order, with the answer in it.

    tick: seconds per unit of the shots' pts. aligner: finds the faces here; None: the server does, the session was
    opened with `alignment`. ahead: seconds of frames that the aligner sees in advance, so that crops do not lag.
    variants: the names of those that the session asks for.
    The session has to ask for reconstructions, and for `show`. Raises the stream's error where it breaks.
    """
    counted = meter or Meter()
    waiting: deque[_Sent] = deque()
    answers: dict[int, Answer] = {}
    writer = _Writer(Paster(seam), show, tuple(variants), tick)
    for sent in _sent(session, frames, tick, aligner, ahead):
        waiting.append(sent)
        while waiting and (waiting[0].seq is None or len(waiting) > _IN_FLIGHT):
            yield writer.finish(waiting.popleft(), _answer_to(session, answers, counted))
    while waiting:
        yield writer.finish(waiting.popleft(), _answer_to(session, answers, counted))


class _Writer:
    """Answers into frames; remembers the last good one."""

    def __init__(self, paster: Paster, show: Show, variants: tuple[str, ...], tick: Fraction) -> None:
        self._paster, self._show, self._variants, self._tick = paster, show, variants, tick
        self._good: FrameResult | None = None

    def finish(self, sent: _Sent, answer_to: Callable[[int], Answer]) -> Placed:
        answer = None if sent.seq is None else answer_to(sent.seq)
        alignment = sent.alignment
        if isinstance(answer, FrameResult):
            self._good = answer
            alignment = _told(answer) or alignment
        faceless = isinstance(answer, Failed) and answer.reason == NO_FACE
        replaced = not (faceless or answer is None or isinstance(answer, FrameResult))
        result = None if answer is None or faceless else self._good
        if result is None or not alignment.aligned:
            self._paster.restart()
            return Placed(sent.shot, sent.frame, self._everywhere(sent.frame), alignment, None, replaced)
        where, time = alignment.crop, float(sent.shot.pts * self._tick)
        self._paster.measure(sent.frame, _pixels(result, "reconstruction"), where, time)
        pixels = self._paster.place(sent.frame, _pixels(result, self._show), where)
        variants = {
            name: self._paster.place(sent.frame, image.pixels, where) for name, image in result.variants.items()
        }
        if result.alignment is None:
            told = FrameAlignment(
                alignment.aligned, alignment.held, alignment.confidence, where.x, where.y, where.side, where.angle
            )
            result = replace(result, alignment=told)
        return Placed(sent.shot, pixels, variants, alignment, result, replaced)

    def _everywhere(self, frame: Pixels) -> dict[str, Pixels]:
        return dict.fromkeys(self._variants, frame)


def _sent(
    session: Session, frames: Iterable[tuple[Shot, Picture]], tick: Fraction, aligner: Aligner | None, ahead: float
) -> Iterator[_Sent]:
    """Every frame, its crop on the way; a frame without a face, or that is no image, is not sent."""

    def readable() -> Iterator[tuple[Shot, Pixels, Picture]]:
        last: NDArray[np.uint8] | None = None
        for shot, picture in frames:
            try:
                last = unpacked(picture)
            except InvalidImage:
                if last is None:
                    raise  # there is nothing to show in its place
                yield shot, last, last
            else:
                yield shot, last, picture

    if aligner is None:
        for shot, frame, picture in readable():
            whole = Alignment(centered(frame.shape[1], frame.shape[0]), False, False, 0.0)
            moment = Frame(picture, capture_time=_EPOCH + float(shot.pts * tick))
            yield _Sent(shot, frame, whole, session.send(moment))
        return
    resolution = session.model.resolution

    def timed(item: tuple[Shot, Pixels, Picture]) -> tuple[Pixels, float]:
        return item[1], float(item[0].pts * tick)

    for (shot, frame, _), alignment in aligner.ahead_of(readable(), timed, ahead):
        seq = session.send(crop(frame, alignment.crop, resolution)) if alignment.aligned else None
        yield _Sent(shot, frame, alignment, seq)


_EPOCH = 1.0  # a capture time of 0 means unknown


def _answer_to(session: Session, answers: dict[int, Answer], meter: Meter) -> Callable[[int], Answer]:
    def wait(seq: int) -> Answer:
        while seq not in answers:
            arrived = session.recv()
            meter.add(arrived)
            answers[arrived.seq] = arrived
        return answers.pop(seq)

    return wait


def _pixels(result: FrameResult, show: Show) -> Pixels:
    image = result.edited if show == "edited" else result.reconstruction
    if image is None:
        raise ValueError(f"the session was opened without outputs.{show}, which pasting needs")
    return image.pixels


def _told(result: FrameResult) -> Alignment | None:
    """What a server that aligns says of the frame."""
    found = result.alignment
    if found is None:
        return None
    where = Similarity(found.x, found.y, found.side, found.angle)
    return Alignment(where, found.aligned, found.held, found.confidence)
