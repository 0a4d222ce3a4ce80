"""Streams whose generator is their own, and frames sorted by it: the rows of one batch share weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.answering import Answering, Land
from legato.devices import Device
from legato.errors import LegatoError
from legato.flights import Flight, Flights, Stopwatch
from legato.inversion.streaming import Motion, Tracker
from legato.inversion.tracker_state import TrackerState
from legato.models.generator import Generator
from legato.types import FrameAnswer


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A generator, and what works with it."""

    generator: Generator
    tracker: Tracker
    answering: Answering

    def own(self, generator: Generator) -> Weights:
        """For a stream's own generator: what the model's was captured for or belongs to stays out."""
        tracker = Tracker(generator, self.tracker.curvature, None, self.tracker.options)
        return Weights(generator, tracker, self.answering.of(generator, tracker))


class SlotWeights:
    """Which weights each slot has: the model's, or its own. Slots with the same generator share them.

    Frames of one batch that need other weights are computed one weights after the other. `make` gives what works with
    a generator; `common` is the model's.
    """

    def __init__(self, common: Weights) -> None:
        self._common = common
        self._own: dict[int, Weights] = {}

    def set(self, slot: int, generator: Generator | None) -> None:
        """From now on the slot's frames run with this generator; None: with the model's."""
        if generator is None:
            self._own.pop(slot, None)
            return
        same = (weights for weights in self._own.values() if weights.generator is generator)
        self._own[slot] = next(same, None) or self._common.own(generator)

    def corrected(self, flights: Sequence[Flight], images: Tensor, encoded: Tensor, stage: Stopwatch) -> Tensor:
        """The codes [N, L, D] after the steps of the residual encoder, where there is one."""
        for weights, some, rows in self._of(flights):
            if weights.tracker.unrolls:
                with stage(some, "residual"):
                    if len(some) == len(flights):
                        return weights.tracker.corrected(images, encoded)
                    encoded[rows] = weights.tracker.corrected(images[rows], encoded[rows])
        return encoded

    def step(self, flights: Sequence[Flight], work: Flights, device: Device) -> None:
        """One refine step of frames."""
        for weights, some, _ in self._of(flights):
            index = work.index(some)
            motion = Motion(work.state.output[index], work.visible[index])
            first = device.put(torch.tensor([flight.taken == 0 for flight in some]))
            weights.tracker.step(work.state, index, work.images[index], motion, first)

    def answer(self, flights: Sequence[Flight], work: Flights, slots: TrackerState) -> Land:
        """As `Answering.answer`."""
        begun = [(rows, weights.answering.answer(some, work, slots)) for weights, some, rows in self._of(flights)]
        if len(begun) == 1:
            return begun[0][1]

        def land() -> list[FrameAnswer | LegatoError]:
            found: dict[int, FrameAnswer | LegatoError] = {}
            for rows, wait in begun:
                found |= zip(rows, wait(), strict=True)
            return [found[row] for row in range(len(flights))]

        return land

    def _of(self, flights: Sequence[Flight]) -> list[tuple[Weights, Sequence[Flight], list[int]]]:
        """The weights that frames need, their frames, and the rows of those."""
        if not self._own:
            return [(self._common, flights, list(range(len(flights))))]
        found: dict[Weights, list[int]] = {}
        for row, flight in enumerate(flights):
            found.setdefault(self._own.get(flight.job.slot, self._common), []).append(row)
        return [(weights, [flights[row] for row in rows], rows) for weights, rows in found.items()]
