"""The streaming tracker: w_t = E(x_t) + R-steps + moves(c_t), with the correction c carried from frame to frame.

What the encoder gets wrong about a person it gets wrong in every frame, so what gradient steps found on one frame
holds for the next. The residual encoder first moves the encoder's code, from what the frame alone shows. Each frame may
then take 0..k steps on c with Adam, in the coordinates of the generator's curvature; its memory is carried too. The
terms: mean squared error, mean squared difference to the last output warped by the flow of the real frames where it is
visible, and a weak pull of c to zero, which is the encoder's domain. What is shown follows c as a running mean: the
mean of an optimizer's last iterates is closer to the minimum and steadier than each of them (Polyak and Juditsky 1992).

A scene cut starts c again from zero: a jump of the code from one frame to the next, or of the residual at the carried
correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.devices import Run, anywhere, direct
from legato.inversion.code import Correction, Synthesize
from legato.inversion.objective import Objective, flow_consistency, prior, squared
from legato.inversion.solve import Schedule, solve
from legato.inversion.state import Moments
from legato.inversion.tracker_state import TrackerState
from legato.losses import mse
from legato.models.curvature import Curvature
from legato.models.residual_encoder import ResidualEncoder


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """Weights and rates of the tracker."""

    lr: float = 0.2  # of Adam on c, in standard deviations of a correction
    betas: tuple[float, float] = (0.7, 0.99)  # of Adam; a short memory, because the frames move on
    smoothing: float = 0.5  # weight of the newest c in what is shown
    flow_weight: float = 0.0  # of flow consistency, beside 1 for the mean squared error
    prior_weight: float = 0.0  # of mean(c^2)
    residual_steps: int = 0  # of the residual encoder on every frame, where the model has one
    pull: float = 0.2  # of c to the window's in a frame that takes steps of its own
    cut_change: float = 0.15  # mean squared change of the image, as the codes tell it, that is a scene cut
    cut_factor: float = 1.5  # a root mean squared error this many times the running one is a scene cut: 3.5 dB
    cut_floor: float = 0.08  # root mean squared error in [-1, 1] below which nothing is a scene cut: 28 dB
    residual_decay: float = 0.8  # of the running root mean squared error, per frame


Rows = tuple[Tensor, ...]  # [B, ...] each


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """The last outputs, warped into the frames of a batch."""

    warped: Tensor  # [B, 3, R, R]
    visible: Tensor  # [B, 1, R, R]: 1 where the warped output can be trusted, else 0; all 0 where there is none


class Tracker:
    """Refines the encoder's codes of a batch of streams with their carried corrections.

    Args:
        synthesize: the generator, weights frozen.
        curvature: of the generator; as built (the identity) where nobody measured it.
        residual: of the generator and its encoder; None where there is none.
        options: weights and rates.
        run: runs what is made of networks, as `Device.run` does.
    """

    def __init__(
        self,
        synthesize: Synthesize,
        curvature: Curvature,
        residual: ResidualEncoder | None = None,
        options: TrackerOptions | None = None,
        run: Run = direct,
    ) -> None:
        self._synthesize = synthesize
        self._run = run
        self._residual = residual
        self.curvature = curvature
        self.options = options or TrackerOptions()

    @property
    def unrolls(self) -> bool:
        """Whether the residual encoder takes steps."""
        return self._residual is not None and self.options.residual_steps > 0

    def corrected(self, images: Tensor, encoded: Tensor) -> Tensor:
        """E(x) [B, L, D] after the steps of the residual encoder, each a forward pass of the generator and of it."""
        if self._residual is not None:
            for _ in range(self.options.residual_steps):
                encoded = self._run("residual", self._correct, images, encoded)
        return encoded

    def _correct(self, images: Tensor, encoded: Tensor) -> Tensor:
        assert self._residual is not None
        moved: Tensor = encoded + self._residual(images, self._synthesize(encoded), encoded)
        return moved

    def begin(self, state: TrackerState, encoded: Tensor) -> None:
        """Restarts the rows [N] of the state whose code jumps from the last frame's: a scene cut."""
        if self.curvature.measured:
            jump = self.curvature.place(encoded - state.encoded).square().sum(1) > self.options.cut_change
            state.restart(jump & (state.frames > 0))
        state.encoded = encoded

    def pull(self, state: TrackerState, target: Tensor, rate: Tensor) -> None:
        """Moves the corrections towards the window's [N, L, D] by the share `rate` [N], 0 where there is none."""
        state.correction = torch.lerp(state.correction, target, rate[:, None, None])

    def show(self, state: TrackerState) -> Tensor:
        """The latents [N, L, D] that a frame is answered with, once its steps are taken; moves the running mean on."""
        state.frames += 1
        weight = (1.0 / state.frames).clamp_min(self.options.smoothing)
        state.shown = torch.lerp(state.shown, state.correction, weight[:, None, None])
        return state.encoded + self.curvature.moves(state.shown)

    def refine(
        self,
        state: TrackerState,  # of N rows: changed in place
        images: Tensor,  # [N, 3, R, R] in [-1, 1]
        steps: Sequence[int],  # N: gradient steps that each row takes
        motion: Motion,  # of N rows
    ) -> Tensor:  # [N, L, D]
        """`show` after each row's steps; a row that takes none costs nothing. Rows leave when their budget ends."""
        for taken in range(max(steps, default=0)):
            index = torch.tensor([row for row, wanted in enumerate(steps) if wanted > taken], device=images.device)
            seen = Motion(motion.warped[index], motion.visible[index])
            first = torch.full((len(index),), taken == 0, device=images.device)
            self.step(state, index, images[index], seen, first)
        return self.show(state)

    def step(
        self,
        state: TrackerState,  # some rows are changed in place
        index: Tensor,  # [B]: these
        images: Tensor,  # [B, 3, R, R] in [-1, 1]
        motion: Motion,  # of B rows
        first: Tensor,  # [B] bool: whether this is the first step of the row's frame
    ) -> None:
        """One step of some rows, whose frames may be of different age.

        The first step's forward pass tells the residual at the carried correction. Where it jumps, the scene has been
        cut: the correction starts again from zero, and that step is spent on finding out.
        """
        flow = self.options.flow_weight > 0.0 and anywhere(motion.visible)
        carried = self._carried(state)
        found = self._run(
            "refine with flow" if flow else "refine",
            self._with_flow if flow else self._without_flow,
            *(state.encoded[index], images, motion.warped, motion.visible, first),
            *(tensor[index] for tensor in carried),
        )
        for tensor, value in zip(carried, found, strict=True):
            tensor[index] = value

    def observe(self, state: TrackerState, index: Tensor, error: Tensor) -> None:
        """Takes in frames' mean squared errors [len(index)] at their carried codes: averages, or restarts at a jump."""
        carried = self._carried(state)
        running, cut = self._judge(state.residual[index], error)
        kept = [tensor[index] for tensor in carried[:-1]]
        for tensor, value in zip(carried, _restarted(cut, *kept, running), strict=True):
            tensor[index] = value

    def measure(self, state: TrackerState, index: Tensor, images: Tensor, frames: Tensor) -> None:
        """`observe` of rows that took no step, from what they are answered with [len(index), 3, R, R]."""
        self.observe(state, index, mse(images, frames))

    def _with_flow(self, encoded: Tensor, images: Tensor, warped: Tensor, visible: Tensor, *rest: Tensor) -> Rows:
        return self._step(encoded, images, Motion(warped, visible), *rest)

    def _without_flow(self, encoded: Tensor, images: Tensor, warped: Tensor, visible: Tensor, *rest: Tensor) -> Rows:
        return self._step(encoded, images, None, *rest)

    def _step(
        self,
        encoded: Tensor,
        images: Tensor,
        motion: Motion | None,  # None: nothing is visible
        begins: Tensor,  # [B] bool: whether this is the first step of the row's frame
        correction: Tensor,
        shown: Tensor,
        first: Tensor,
        second: Tensor,
        age: Tensor,
        frames: Tensor,
        residual: Tensor,
    ) -> Rows:
        """The step itself, of B rows of which none knows of another; what becomes of what they carry."""
        found = solve(
            Correction(encoded, correction, self.curvature),
            self._objective(encoded, images, motion),
            Schedule(1, self.options.lr, betas=self.options.betas),
            self._synthesize,
            moments=(Moments(first, second, age),),
        )
        (moments,) = found.moments
        running, cut = self._judge(residual, found.losses["squared"][0])
        running = torch.where(begins, running, residual)
        moved = (found.free[0], shown, moments.first, moments.second, moments.age, frames, running)
        return _restarted(cut & begins, *moved)

    def _judge(self, known: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        """The running residual [B] with a new one in it, and whether that is a jump [B]."""
        residual, options = error.sqrt(), self.options
        limit = (options.cut_factor * known).clamp_min(options.cut_floor)
        running = torch.where(known > 0, torch.lerp(residual, known, options.residual_decay), residual)
        return running, (known > 0) & (residual > limit)

    def _objective(self, encoded: Tensor, images: Tensor, motion: Motion | None) -> Objective:
        options = self.options
        terms = [squared(images)]
        if options.prior_weight:
            terms.append(prior(encoded, options.prior_weight))
        if motion is not None:
            terms.append(flow_consistency(motion.warped, motion.visible, options.flow_weight))
        return Objective(tuple(terms))

    @staticmethod
    def _carried(state: TrackerState) -> Rows:
        """What a step may change: all that a scene cut zeroes."""
        return (state.correction, state.shown, state.first, state.second, state.age, state.frames, state.residual)


def _restarted(cut: Tensor, *carried: Tensor) -> Rows:
    """What rows carry, zero where `cut` [B]."""
    return tuple(value.masked_fill(cut.view(-1, *[1] * (value.dim() - 1)), 0.0) for value in carried)
