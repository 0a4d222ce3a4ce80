"""What the tracker keeps of its streams: tensors [slots + 1, ...], allocated once, gathered and scattered by index.

The last row is always the state of a stream that has not begun; sessionless images read it, and nobody writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


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
    has_output: Tensor  # [N] bool: whether the last frame had a reconstruction
    gray: Tensor  # [N, S, S] uint8: the last frame at flow resolution
    arrival: Tensor  # [N] float64, on the CPU: of the last frame, monotonic seconds; 0 before the first
    version: Tensor  # [N] int64: frames since the slot was opened

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
            has_output=torch.zeros(rows, dtype=torch.bool, device=device),
            gray=torch.zeros(rows, flow_side, flow_side, dtype=torch.uint8),  # OpenCV reads it
            arrival=torch.zeros(rows, dtype=torch.float64),
            version=torch.zeros(rows, dtype=torch.int64, device=device),
        )

    def gather(self, rows: Sequence[int]) -> TrackerState:
        """A copy of some rows; -1 is the last one."""
        index = torch.tensor(rows) % self.version.shape[0]  # on the CPU, where it serves tensors of every device
        return TrackerState(*(tensor[index] for tensor in self._tensors()))

    def scatter(self, rows: Sequence[int], batch: TrackerState, kept: Sequence[int]) -> None:
        """Writes rows `kept` of a batch back to the slots rows[kept]; rows of nobody (below 0) are left out."""
        kept = [row for row in kept if rows[row] >= 0]
        source = torch.tensor(kept, dtype=torch.int64)
        target = torch.tensor([rows[row] for row in kept], dtype=torch.int64)
        for mine, theirs in zip(self._tensors(), batch._tensors(), strict=True):
            mine[target] = theirs[source]

    def reset(self, row: int) -> None:
        """Makes a row that of a stream that has not begun."""
        for tensor in self._tensors():
            tensor[row] = 0

    def restart(self, rows: Tensor) -> None:
        """Forgets the correction and all that belongs to it where `rows` [N] bool is set: a scene cut."""
        for tensor in (self.correction, self.shown, self.first, self.second, self.age, self.frames, self.residual):
            tensor[rows] = 0

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]
