"""What the tracker keeps of its streams: tensors [slots + 2, ...], allocated once, gathered and scattered by index.

The last row is always the state of a stream that has not begun; sessionless images read it, and nobody writes it. The
row before it is written by those whose numbers did not stay finite, and nobody reads it. What the host decides by lies
on the CPU, and nothing here waits for a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from legato.devices import onto

ON_CPU = ("has_output", "stepped", "gray", "arrival", "version")  # of TrackerState


@dataclass(slots=True, eq=False)
class TrackerState:
    """Rows of state: the slots themselves, or the rows of one batch. Corrections are coordinates of the curvature."""

    latents: Tensor  # [N, L, D]: the last frame's
    encoded: Tensor  # [N, L, D]: the last frame's, before any correction
    correction: Tensor  # [N, L, D]: c
    shown: Tensor  # [N, L, D]: running mean of c, which is what frames are answered with
    first: Tensor  # [N, L, D]: Adam's first moment of c
    second: Tensor  # [N, L, D]: Adam's second moment of c
    age: Tensor  # [N]: steps that c has taken since it was last zero
    frames: Tensor  # [N]: answered since c was last zero
    residual: Tensor  # [N]: running root mean squared error at the carried code; 0 before the first measurement
    output: Tensor  # [N, 3, R, R]: the last reconstruction
    has_output: Tensor  # [N] bool, on the CPU: whether the last frame had a reconstruction
    stepped: Tensor  # [N] bool, on the CPU: whether c ever took a step
    gray: Tensor  # [N, S, S] uint8, on the CPU: the last frame at flow resolution
    arrival: Tensor  # [N] float64, on the CPU: of the last frame, monotonic seconds; 0 before the first
    version: Tensor  # [N] int64, on the CPU: frames since the slot was opened

    @staticmethod
    def zeros(
        rows: int, *, layers: int, dim: int, resolution: int, flow_side: int, device: torch.device
    ) -> TrackerState:
        """State of `rows` streams that have not begun."""

        def code() -> Tensor:
            return torch.zeros(rows, layers, dim, device=device)

        def number() -> Tensor:
            return torch.zeros(rows, device=device)

        return TrackerState(
            latents=code(),
            encoded=code(),
            correction=code(),
            shown=code(),
            first=code(),
            second=code(),
            age=number(),
            frames=number(),
            residual=number(),
            output=torch.zeros(rows, 3, resolution, resolution, device=device),
            has_output=torch.zeros(rows, dtype=torch.bool),
            stepped=torch.zeros(rows, dtype=torch.bool),
            gray=torch.zeros(rows, flow_side, flow_side, dtype=torch.uint8),  # OpenCV reads it
            arrival=torch.zeros(rows, dtype=torch.float64),
            version=torch.zeros(rows, dtype=torch.int64),
        )

    def gather(self, rows: Sequence[int]) -> TrackerState:
        """A copy of some rows; -1 is the last one."""
        index = torch.tensor(rows, dtype=torch.int64) % self.version.shape[0]
        there = onto(self.latents.device, index)
        return TrackerState(*(getattr(self, name)[index if name in ON_CPU else there] for name in self._names()))

    def scatter(self, rows: Sequence[int], batch: TrackerState, kept: Sequence[int]) -> None:
        """Writes rows `kept` of a batch back to the slots rows[kept]; rows of nobody (below 0) are left out."""
        self.scatter_device(rows, batch, kept)
        self.scatter_host(rows, batch, kept)

    def scatter_device(
        self, rows: Sequence[int], batch: TrackerState, kept: Sequence[int], spoiled: Tensor | None = None
    ) -> None:
        """`scatter` of what lies on the device. `spoiled` [N] bool, on the device: these rows are not to be written."""
        source, target = (onto(self.latents.device, index) for index in _places(rows, kept))
        if spoiled is not None:
            target = torch.where(spoiled[source], self.version.shape[0] - 2, target)
        self._write(target, batch, source, [name for name in self._names() if name not in ON_CPU])

    def scatter_host(self, rows: Sequence[int], batch: TrackerState, kept: Sequence[int]) -> None:
        """`scatter` of what lies on the CPU."""
        source, target = _places(rows, kept)
        self._write(target, batch, source, ON_CPU)

    def reset(self, row: int) -> None:
        """Makes a row that of a stream that has not begun."""
        for name in self._names():
            getattr(self, name)[row] = 0

    def restart(self, rows: Tensor) -> None:
        """Forgets the correction and all that belongs to it where `rows` [N] bool is set: a scene cut."""
        for tensor in (self.correction, self.shown, self.first, self.second, self.age, self.frames, self.residual):
            tensor.masked_fill_(rows.view(-1, *[1] * (tensor.dim() - 1)), 0)

    def _write(self, target: Tensor, batch: TrackerState, source: Tensor, names: Sequence[str]) -> None:
        for name in names:
            getattr(self, name)[target] = getattr(batch, name)[source]

    def _names(self) -> list[str]:
        return [field.name for field in fields(self)]


def _places(rows: Sequence[int], kept: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The rows of `kept` that belong to somebody, and whose they are."""
    kept = [row for row in kept if rows[row] >= 0]
    return torch.tensor(kept, dtype=torch.int64), torch.tensor([rows[row] for row in kept], dtype=torch.int64)
