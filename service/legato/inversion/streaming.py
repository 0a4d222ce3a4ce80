"""The streaming tracker: w_t = E(x_t) + c_t, with the correction c carried from frame to frame.

What the encoder gets wrong about a person it gets wrong in every frame, so what gradient steps found on one frame
holds for the next. Each frame may take 0..k steps on c with Adam, whose memory is carried too. The terms: pixel L1,
Laplacian-pyramid L1, L1 to the last output warped by the flow of the real frames where it is visible, and a weak pull
of c to zero, which is the encoder's domain.

State lives in slots: tensors [slots + 1, ...] allocated once, gathered and scattered by index. The last row is always
the state of a stream that has not begun; sessionless images read it, and nobody writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from legato.inversion.code import Correction, Synthesize
from legato.inversion.objective import Objective, flow_consistency, pixel, prior, pyramid
from legato.inversion.solve import Schedule, solve
from legato.inversion.state import Moments


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """Weights and rates of the tracker.

    The defaults are a compromise between closeness and steadiness, found on 3 held-out clips of 24 frames and an early
    model; with dT the mean absolute error of the change from frame to frame, the encoder alone has 23.98 dB, dT .0129:

        lr    flow  prior   1 step          2 steps         8 steps
        .01   .5    .2      24.94 dB .0155  25.25 dB .0153  25.89 dB .0141
        .01   0     .05     24.97 dB .0155  25.26 dB .0170
        .03   .5    .05     24.82 dB .0244  25.39 dB .0217
        .01   3     .05     23.82 dB .0169  24.73 dB .0139
    """

    lr: float = 0.01  # of Adam on c
    flow_weight: float = 0.5  # of flow consistency, beside 1 for pixels and 1 for the pyramid
    prior_weight: float = 0.2  # of mean(c^2)
    cut_factor: float = 1.5  # a residual (L1) this many times the running one is a scene cut: 3.5 dB
    cut_floor: float = 0.05  # L1 in [-1, 1] below which nothing is a scene cut
    residual_decay: float = 0.8  # of the running residual, per frame


@dataclass(slots=True, eq=False)
class TrackerState:
    """Rows of state: the slots themselves, or the rows of one batch."""

    latents: Tensor  # [N, L, D]: the last frame's
    correction: Tensor  # [N, L, D]: c
    first: Tensor  # [N, L, D]: Adam's first moment of c
    second: Tensor  # [N, L, D]: Adam's second moment of c
    age: Tensor  # [N]: steps that c has taken since it was last zero
    residual: Tensor  # [N]: running L1 at the carried code; 0 before the first measurement
    output: Tensor  # [N, 3, R, R]: the last reconstruction
    has_output: Tensor  # [N] bool: whether the last frame had a reconstruction
    gray: Tensor  # [N, S, S] uint8: the last frame at flow resolution
    version: Tensor  # [N] int64: frames since the slot was opened

    @staticmethod
    def zeros(
        rows: int, *, layers: int, dim: int, resolution: int, flow_side: int, device: torch.device
    ) -> TrackerState:
        """State of `rows` streams that have not begun."""

        def code() -> Tensor:
            return torch.zeros(rows, layers, dim, device=device)

        return TrackerState(
            latents=code(),
            correction=code(),
            first=code(),
            second=code(),
            age=torch.zeros(rows, device=device),
            residual=torch.zeros(rows, device=device),
            output=torch.zeros(rows, 3, resolution, resolution, device=device),
            has_output=torch.zeros(rows, dtype=torch.bool, device=device),
            gray=torch.zeros(rows, flow_side, flow_side, dtype=torch.uint8),  # OpenCV reads it
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
        """Zeroes the correction, its moments and the running residual where `rows` [N] bool is set: a scene cut."""
        for tensor in (self.correction, self.first, self.second, self.age, self.residual):
            tensor[rows] = 0

    def _tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """The last outputs, warped into the frames of a batch."""

    warped: Tensor  # [B, 3, R, R]
    visible: Tensor  # [B, 1, R, R]: 1 where the warped output can be trusted, else 0; all 0 where there is none


class Tracker:
    """Refines the encoder's codes of a batch of streams with their carried corrections."""

    def __init__(self, synthesize: Synthesize, options: TrackerOptions | None = None) -> None:
        self._synthesize = synthesize
        self.options = options or TrackerOptions()

    def refine(
        self,
        state: TrackerState,  # of N rows: changed in place
        encoded: Tensor,  # [N, L, D]: E(x)
        images: Tensor,  # [N, 3, R, R] in [-1, 1]
        steps: Sequence[int],  # N: gradient steps that each row takes
        motion: Motion | None,  # of N rows; None when no row takes steps
    ) -> Tensor:  # [N, L, D]
        """E(x) + c after each row's steps; a row that takes none costs nothing.

        Rows leave when their budget ends.
        """
        for taken in range(max(steps, default=0)):
            if motion is None:
                raise ValueError("rows that take steps need the motion of their frames; got None")
            index = torch.tensor([row for row, wanted in enumerate(steps) if wanted > taken], device=encoded.device)
            seen = Motion(motion.warped[index], motion.visible[index])
            first = torch.full((len(index),), taken == 0, device=encoded.device)
            self.step(state, index, encoded[index], images[index], seen, first)
        return encoded + state.correction

    def step(
        self,
        state: TrackerState,  # some rows are changed in place
        index: Tensor,  # [B]: these
        encoded: Tensor,  # [B, L, D]: E(x)
        images: Tensor,  # [B, 3, R, R] in [-1, 1]
        motion: Motion,  # of B rows
        first: Tensor,  # [B] bool: whether this is the first step of the row's frame
    ) -> None:
        """One step of some rows, whose frames may be of different age.

        The first step's forward pass tells the residual at the carried correction. Where it jumps, the scene has been
        cut: the correction starts again from zero, and that step is spent on finding out.
        """
        found = solve(
            Correction(encoded, state.correction[index]),
            self._objective(encoded, images, motion.warped, motion.visible),
            Schedule(1, self.options.lr),
            self._synthesize,
            moments=(Moments(state.first[index], state.second[index], state.age[index]),),
        )
        (moments,) = found.moments
        state.first[index], state.second[index], state.age[index] = moments.first, moments.second, moments.age
        state.correction[index] = found.free[0]
        if bool(first.any()):
            self.observe(state, index[first], found.losses["pixel"][0][first])

    def observe(self, state: TrackerState, index: Tensor, residual: Tensor) -> None:
        """Takes in frames' L1 [len(index)] at their carried codes: averages it, or restarts rows where it jumps."""
        known = state.residual[index]
        limit = (self.options.cut_factor * known).clamp_min(self.options.cut_floor)
        cut = (known > 0) & (residual > limit)
        decay = self.options.residual_decay
        state.residual[index] = torch.where(known > 0, torch.lerp(residual, known, decay), residual)
        mask = torch.zeros_like(state.has_output)
        mask[index[cut]] = True
        state.restart(mask)

    def _objective(self, encoded: Tensor, images: Tensor, warped: Tensor, visible: Tensor) -> Objective:
        options = self.options
        terms = [pixel(images), pyramid(images), prior(encoded, options.prior_weight)]
        if bool(visible.any()):
            terms.append(flow_consistency(warped, visible, options.flow_weight))
        return Objective(tuple(terms))
