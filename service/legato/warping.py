"""A stream's last output, brought to where its next frame shows it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legato.inversion.tracker_state import TrackerState
from legato.models.flow import MAX_SIDE, DisFlow, gray, resize_flow, visible
from legato.ops import flow_warp
from legato.types import FrameJob


class Warping:
    """Warps last outputs along the flow of the real frames, that which came with a frame or else what DIS finds.

    `side` is the resolution at which frames are compared.
    """

    def __init__(self, resolution: int, device: torch.device) -> None:
        self.side = min(resolution, MAX_SIDE)
        self._resolution = resolution
        self._device = device
        self._flow = DisFlow()

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
        for place, row in enumerate(rows):
            if not state.has_output[row]:
                continue
            if (given := jobs[row].flow) is not None:
                pull, back = torch.tensor(given.vectors)[None], None
            else:
                pull, back = self._flow.both(_pixels(grays[row]), _pixels(state.gray[row]))
            pull, seen = resize_flow(pull, r), visible(pull, back)
            flow[place] = pull[0]
            trusted[place] = torch.nn.functional.interpolate(seen, size=(r, r))[0]
        return flow_warp(state.output[rows], flow.to(self._device))[0], trusted.to(self._device)


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = image.numpy()
    return pixels
