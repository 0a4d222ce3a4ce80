"""A stream's last output, brought to where its next frame shows it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from legato.devices import onto
from legato.inversion.tracker_state import TrackerState
from legato.models.flow import MAX_SIDE, DisFlow, FlowFinder, gray, resize_flow, visible
from legato.ops import flow_warp
from legato.types import FrameJob


class Warping:
    """Warps last outputs along the flow of the real frames: that which came with a frame, or else what `finder` finds,
    DIS where none is given.

    `side` is the resolution at which frames are compared.
    """

    def __init__(self, resolution: int, device: torch.device, finder: FlowFinder | None = None) -> None:
        self.side = min(resolution, MAX_SIDE)
        self._resolution = resolution
        self._device = device
        self._finder = finder or DisFlow()

    def grays(self, jobs: Sequence[FrameJob]) -> Tensor:
        """The frames as they are compared: uint8 [N, S, S], on the CPU."""
        return torch.from_numpy(np.stack([gray(job.frame.pixels, self.side) for job in jobs]))

    def warp(
        self,
        jobs: Sequence[FrameJob],  # N
        grays: Tensor,  # [N, S, S] uint8: their frames
        state: TrackerState,  # of N rows
        rows: list[int],  # M of them
    ) -> tuple[Tensor, Tensor]:
        """The last outputs of some rows as their frames would show them [M, 3, R, R], and where these show them
        [M, 1, R, R]: nowhere in a row that has none."""
        m, r = len(rows), self._resolution
        flow = torch.zeros(m, 2, r, r)
        trusted = torch.zeros(m, 1, r, r)
        shown = [place for place, row in enumerate(rows) if state.has_output[row]]
        found = [place for place in shown if jobs[rows[place]].flow is None]
        if found:
            index = [rows[place] for place in found]
            pull, back = self._finder.pairs(grays[index], state.gray[index])
            flow[found], trusted[found] = self._scaled(pull, back)
        for place in shown:
            if (given := jobs[rows[place]].flow) is not None:
                pulled, seen = self._scaled(torch.tensor(given.vectors)[None])
                flow[place], trusted[place] = pulled[0], seen[0]
        last = state.output[onto(self._device, torch.tensor(rows, dtype=torch.int64))]
        return flow_warp(last, onto(self._device, flow))[0], onto(self._device, trusted)

    def _scaled(self, pull: Tensor, back: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Flow [K, 2, R, R] of flow [K, 2, S, S], and where it is to be trusted [K, 1, R, R]."""
        seen = torch.nn.functional.interpolate(visible(pull, back), size=(self._resolution, self._resolution))
        return resize_flow(pull, self._resolution), seen
