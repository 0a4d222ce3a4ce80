"""The last stage of frames in flight: edit, synthesize, move the streams' state on, answer.

The edits come before the synthesis, so that the reconstructions and every edited image of all frames are one batch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legato.devices import Device, Run, direct
from legato.editing.directions import Directions
from legato.errors import LegatoError
from legato.flights import Flight, Flights, Stopwatch
from legato.inversion.streaming import Tracker
from legato.inversion.tracker_state import TrackerState
from legato.inversion.window import Window
from legato.losses import psnr
from legato.models.generator import Generator
from legato.types import Edit, FrameAnswer, FrameJob

IMAGE_SIZES = (1, 2, 3, 4, 5, 6, 7, 8)  # larger batches gain nothing on a CPU: 16 images take 1.1 times what 2 x 8 do
NOT_FINITE = "the model gave NaN or infinity for this frame; its session goes on as before it"

Land = Callable[[], list[FrameAnswer | LegatoError]]


@dataclass(slots=True, eq=False)
class _Last:
    """N frames in their last stage."""

    flights: Sequence[Flight]
    jobs: Sequence[FrameJob]
    images: Tensor  # [N, 3, R, R] in [-1, 1]
    state: TrackerState  # N rows
    rebuilt: list[int] = field(default_factory=list)  # rows that have a reconstruction
    edited: list[int] = field(default_factory=list)  # the row of each edited image, in their order
    edits: list[tuple[Edit, ...]] = field(default_factory=list)  # and its edits


class _Drawn:
    """The generator, run by a device."""

    def __init__(self, generator: Generator, run: Run) -> None:
        self._generator = generator
        self._run = run

    def __call__(self, latents: Tensor, /) -> Tensor:
        images: Tensor = self._run("synthesize", self._generator, latents)
        return images

    def styles(self, latents: Tensor, /) -> list[Tensor]:
        return self._generator.styles(latents)

    def synthesize(self, styles: list[Tensor], /) -> Tensor:
        images: Tensor = self._run("synthesize styles", self._from_styles, *styles)
        return images

    def _from_styles(self, *styles: Tensor) -> Tensor:
        return self._generator.synthesize(list(styles))


class Answering:
    """Makes answers of frames in flight.

    Args:
        generator, directions: the model.
        tracker: is told the residual of frames that took no step.
        stage: times what is done.
        image_sizes: how many images are synthesized at a time: with 1 among them, increasing.
        runner: computes it.
        window: is offered the frames as keyframes.
        run: how the generator runs, where that is not the runner's way.
    """

    def __init__(
        self,
        generator: Generator,
        directions: Directions,
        tracker: Tracker,
        stage: Stopwatch,
        image_sizes: Sequence[int],
        runner: Device,
        window: Window | None = None,
        run: Run | None = None,
    ) -> None:
        self._generator = _Drawn(generator, run or runner.run)
        self._directions = directions
        self._tracker = tracker
        self._stage = stage
        self.sizes = tuple(image_sizes)
        self._runner = runner
        self.window = window

    def of(self, generator: Generator, tracker: Tracker) -> Answering:
        """The same for another generator of these sizes, run as it is, and without a window."""
        return Answering(generator, self._directions, tracker, self._stage, self.sizes, self._runner, run=direct)

    @torch.inference_mode()
    def answer(self, flights: Sequence[Flight], work: Flights, slots: TrackerState) -> Land:
        """Synthesizes what N >= 1 frames ask for, and moves their slots' state on, as far as it lies on the device.

        What it gives waits for the device, moves on the rest, and gives an answer a frame, in their order.
        A frame whose numbers do not stay finite is answered with NOT_FINITE, and its slot stays as it was.
        """
        index = work.index(flights)
        state = work.state.gather([flight.row for flight in flights])
        last = _Last(flights, [flight.job for flight in flights], work.images[index], state)
        latents = self._tracker.show(state)
        with self._stage(flights, "edit"):
            edited = self._edit(last, latents)
        with self._stage(flights, "synthesize"):
            images = self._synthesize(last, latents, edited)
        return self._settle(last, latents, images, slots)

    def _edit(self, last: _Last, latents: Tensor) -> Tensor:
        """Latents [E, L, D] of the E edited images that are asked for, which it notes; moved in W+."""
        wanted = [(row, edits) for row, job in enumerate(last.jobs) for edits in job.edited]
        last.edited, last.edits = [row for row, _ in wanted], [edits for _, edits in wanted]
        return self._directions.move(latents[self._rows(last.edited)], last.edits)

    def _synthesize(self, last: _Last, latents: Tensor, edited: Tensor) -> Tensor:
        """Images [M + E, 3, R, R]: reconstructions where they are asked for or the tracker needs them, then edits."""
        last.state.stepped |= torch.tensor([flight.taken > 0 for flight in last.flights])
        needed = last.state.stepped.tolist()
        last.rebuilt = [row for row, job in enumerate(last.jobs) if job.outputs.reconstruction or needed[row]]
        codes = torch.cat([latents[self._rows(last.rebuilt)], edited])
        edits = [()] * len(last.rebuilt) + last.edits
        parts = [last.images[:0]]
        for part in _parts(len(codes), self.sizes[-1:] if self._runner.pads else self.sizes):
            parts.append(self._directions.draw(self._generator, codes[part], edits[part]))
        return parts[1] if len(parts) == 2 else torch.cat(parts)

    def _settle(self, last: _Last, latents: Tensor, images: Tensor, slots: TrackerState) -> Land:
        """Moves the state on and writes it back; then the answers."""
        state, jobs = last.state, last.jobs
        db = self._measure(last, images[: len(last.rebuilt)])
        state.latents = latents
        state.version += 1
        wrong = (~_finite(latents) | ~_finite(state.correction)).float()
        spoiled = wrong.index_add_(0, self._rows(last.rebuilt + last.edited), (~_finite(images)).float()) > 0
        owners = [job.slot for job in jobs]
        slots.scatter_device(owners, state, [row for row, flight in enumerate(last.flights) if flight.kept], spoiled)
        wanted = [row for row, job in enumerate(jobs) if job.outputs.latents]
        wait = self._runner.fetch(as_bytes(images), db, latents[self._rows(wanted)], spoiled, state.frames == 1)

        def land() -> list[FrameAnswer | LegatoError]:
            pixels, decibels, codes, bad, begins = wait()
            good = [row for row, flight in enumerate(last.flights) if flight.kept and not bad[row]]
            slots.scatter_host(owners, state, good)
            if self.window is not None:
                with torch.inference_mode():
                    self._offer(self.window, last, [row for row in good if owners[row] >= 0], begins)
            known = dict(zip(wanted, codes.numpy(), strict=True))
            return _answers(last, pixels.numpy(), dict(zip(last.rebuilt, decibels.tolist(), strict=True)), known, bad)

        return land

    def _offer(self, window: Window, last: _Last, rows: Sequence[int], begins: Tensor) -> None:
        """Frames that may become keyframes. One that begins a stream or a scene begins a new window."""
        for row in rows:
            slot = last.jobs[row].slot
            if begins[row]:
                window.reset(slot)
            window.offer(slot, last.images[row], last.state.encoded[row])
            window.owe(slot, last.jobs[row].window_steps)

    def _measure(self, last: _Last, rebuilt: Tensor) -> Tensor:
        """PSNR [M] of the rows that have a reconstruction, which becomes their last output.

        The residual of rows that took no step goes to the tracker, which has seen that of the others.
        """
        state, index = last.state, self._rows(last.rebuilt)
        state.has_output[:] = False
        state.has_output[last.rebuilt] = True
        state.output[index] = rebuilt
        frames = last.images[index]
        still = [n for n, row in enumerate(last.rebuilt) if last.flights[row].taken == 0]
        if still:
            some = self._rows(still)
            self._tracker.measure(state, index[some], rebuilt[some], frames[some])
        return psnr(rebuilt, frames)

    def _rows(self, rows: Sequence[int]) -> Tensor:
        return self._runner.put(torch.tensor(rows, dtype=torch.int64))


def _answers(
    last: _Last,
    pixels: NDArray[np.uint8],  # [M + E, R, R, 3]
    db: Mapping[int, float],
    latents: Mapping[int, NDArray[np.float32]],
    spoiled: Tensor,  # [N] bool
) -> list[FrameAnswer | LegatoError]:
    rebuilt = dict(zip(last.rebuilt, pixels, strict=False))
    edited: dict[int, list[NDArray[np.uint8]]] = {}
    for row, image in zip(last.edited, pixels[len(last.rebuilt) :], strict=True):
        edited.setdefault(row, []).append(image)
    return [
        LegatoError(NOT_FINITE, reason="NOT_FINITE")
        if spoiled[row]
        else FrameAnswer(
            seq=job.seq,
            reconstruction=rebuilt[row] if job.outputs.reconstruction else None,
            edited=edited[row].pop(0) if row in edited and job.edits else None,
            latents=latents.get(row),
            psnr_db=db.get(row, math.nan),
            steps=flight.taken,
            state_version=int(last.state.version[row]),
            stage_seconds=flight.stage_seconds,
            variants=tuple(edited.get(row, ())),
        )
        for row, (job, flight) in enumerate(zip(last.jobs, last.flights, strict=True))
    ]


def _parts(count: int, sizes: Sequence[int]) -> list[slice]:
    """`count` rows in the largest batches that they fill; where there is one size, in such and the rest."""
    parts, first = [], 0
    while first < count:
        last = min(first + sizes[bisect_right(sizes, count - first) - 1], count)
        parts.append(slice(first, last))
        first = last
    return parts


def as_bytes(images: Tensor) -> Tensor:
    """uint8 [B, R, R, 3] of images [B, 3, R, R] in [-1, 1]."""
    rounded = images.float().clamp(-1.0, 1.0).add_(1.0).mul_(127.5).round_().to(torch.uint8)
    return torch.stack(rounded.unbind(1), -1)  # faster than a permuted copy


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """`as_bytes`, on the CPU."""
    pixels: NDArray[np.uint8] = as_bytes(images).cpu().numpy()
    return pixels


def _finite(values: Tensor) -> Tensor:
    """Whether all of each row [N, ...] is finite: bool [N]. By its sum, five times as fast as by its elements."""
    return values.flatten(1).sum(1).isfinite()
