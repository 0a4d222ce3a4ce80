"""The optimization loop of every inversion: Code x Objective x Schedule -> Inversion."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from legato.inversion.code import Code, Synthesize
from legato.inversion.objective import Objective
from legato.inversion.pauses import in_rows
from legato.inversion.state import Checkpoint, Moments, SolveState, stack


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: `steps` of Adam at rate `lr`, rising linearly from 0 over the first `warmup` of them and
    falling to 0 over the last `cooldown` of them.

    With `patience`, the solve stops early once no row has brought its total below (1 - `improvement`) of what it last
    was for so many steps. The rows stop together: a batch costs no less for the rows that have stalled in it, and they
    may still move. With `keep_best`, what comes back is each row at its lowest total instead of after its last step;
    that costs one more forward pass, to measure the last one.
    """

    steps: int
    lr: float
    cooldown: float = 0.0  # fraction of the steps, 0..1
    warmup: float = 0.0  # fraction of the steps, 0..1
    fall: Literal["linear", "cosine"] = "linear"  # shape of the cooldown
    gains: tuple[float, ...] = ()  # factor on lr for each free tensor; all 1 where empty
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    patience: int = 0  # steps; 0: never stop early
    improvement: float = 1e-3  # fraction of a total
    keep_best: bool = False

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        left, done = 1.0 - step / self.steps, (step + 1) / self.steps
        factor = min(1.0, left / self.cooldown) if self.cooldown > 0.0 else 1.0
        if self.fall == "cosine":
            factor = 0.5 - 0.5 * math.cos(math.pi * factor)
        return self.lr * factor * (min(1.0, done / self.warmup) if self.warmup > 0.0 else 1.0)

    def rates(self, step: int, tensors: int) -> list[float]:
        """Learning rates of a step for each of the free tensors."""
        if self.gains and len(self.gains) != tensors:
            raise ValueError(f"a schedule has one gain for each of the {tensors} free tensors; got {self.gains}")
        rate = self.rate(step)
        return [rate * gain for gain in self.gains] if self.gains else [rate] * tensors


@dataclass(frozen=True, slots=True, eq=False)
class Inversion:
    """What an optimization found."""

    latents: Tensor  # [B, L, D]
    free: tuple[Tensor, ...]  # the free tensors: after the last step, or at each row's lowest total
    moments: tuple[Moments, ...]  # Adam's memory, to go on from the last step
    losses: Mapping[str, Tensor]  # per term, unweighted, before each step: [steps, B]
    seconds: float
    totals: Tensor  # the weighted sum, before each step: [steps, B]
    passes: int  # of the generator over an image; forward and backward count one each

    @property
    def steps(self) -> int:
        """Steps taken; fewer than were scheduled after an early stop."""
        return self.totals.shape[0]


def solve(
    code: Code,
    objective: Objective,
    schedule: Schedule,
    synthesize: Synthesize,
    *,
    moments: tuple[Moments, ...] | None = None,
    on_step: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Inversion:
    """Minimizes the objective over the code's free tensors.

    The rows of a batch do not touch each other: the sum over the batch is minimized, and each row's gradient is that
    of its own loss.

    Args:
        code: what is free, and how it becomes latents.
        objective: what is minimized.
        schedule: how many steps and how large.
        synthesize: the generator from latents to images. Its parameters should not require gradients.
        moments: Adam's memory of an earlier solve of the same tensors; None starts afresh.
        on_step: called after each step with the number of steps taken, for progress; what it raises ends the solve.
        checkpoint: the file that a solve of the same code, objective and schedule goes on from if it was interrupted,
            with the same result as if it had not been. Written every so many steps and at the end.

    Raises ModelFileError or InvalidInput for a checkpoint that cannot be read, written, or belongs to another solve.
    """
    started = tuple(start.detach().clone() for start in code.start)
    state: SolveState | None = None
    if checkpoint is not None:
        checkpoint = checkpoint.about(schedule, *started)
        state = checkpoint.load(started[0].device)
    if state is None:
        state = SolveState(started, moments or tuple(Moments.zeros(tensor) for tensor in started))
    before, saved = state.seconds, state.step
    synthesize = _in_parts(synthesize)
    began = time.perf_counter()
    while state.step < schedule.steps and not _stalled(state, schedule):
        _step(state, code, objective, schedule, synthesize)
        state.seconds = before + time.perf_counter() - began
        if checkpoint is not None and state.step - saved >= checkpoint.every:
            checkpoint.save(state)
            saved = state.step
        if on_step is not None:
            on_step(state.step)
    if checkpoint is not None and state.step > saved:
        checkpoint.save(state)
    with torch.no_grad():
        free = _best(state, code, objective, synthesize) if schedule.keep_best and state.step else state.free
        found = code.latents(*free)
    losses = stack(state.trace)
    totals = losses.pop("total") if losses else found.new_zeros(0, found.shape[0])
    seconds = before + time.perf_counter() - began
    return Inversion(found, free, state.moments, losses, seconds, totals, state.passes)


def _in_parts(synthesize: Synthesize) -> Synthesize:
    """The generator, some rows at a time where pauses are wanted; called with noise maps [B, 1, r, r] or without."""

    def drawn(latents: Tensor, noise: Sequence[Tensor] = ()) -> Tensor:
        if not noise:
            return in_rows(synthesize, latents)
        with_noise: Callable[..., Tensor] = synthesize
        return in_rows(lambda some, *maps: with_noise(some, maps), latents, *noise)

    return drawn


def _step(state: SolveState, code: Code, objective: Objective, schedule: Schedule, synthesize: Synthesize) -> None:
    """One step of all rows: the state after it."""
    with torch.enable_grad():
        leaves = tuple(tensor.requires_grad_() for tensor in state.free)
        image, latents = code.draw(synthesize, leaves, state.step)
        total, losses = objective(image, latents, leaves)
        gradients = torch.autograd.grad(total.sum(), leaves)
    known = tuple(tensor.detach() for tensor in leaves)
    losses["total"] = total = total.detach()
    if schedule.keep_best or schedule.patience:
        _remember(state, known, total, schedule)
    rates = schedule.rates(state.step, len(known))
    moved = [_adam(*each, schedule) for each in zip(known, gradients, state.moments, rates, strict=True)]
    state.free, state.moments = tuple(tensor for tensor, _ in moved), tuple(memory for _, memory in moved)
    state.trace.append(losses)
    state.passes += 2 * image.shape[0]
    state.step += 1


@torch.no_grad()
def _adam(free: Tensor, gradient: Tensor, known: Moments, rate: float, schedule: Schedule) -> tuple[Tensor, Moments]:
    """One step of Adam (Kingma and Ba 2015, Algorithm 1) with the bias correction of each row's own age."""
    beta1, beta2 = schedule.betas
    age = known.age + 1.0
    first = torch.lerp(gradient, known.first, beta1)
    second = torch.lerp(gradient.square(), known.second, beta2)
    rows = (-1, *[1] * (free.dim() - 1))
    unbiased = first / (1.0 - beta1**age).view(rows)
    scale = (second / (1.0 - beta2**age).view(rows)).sqrt() + schedule.epsilon
    return free - rate * unbiased / scale, Moments(first, second, age)


def _remember(state: SolveState, free: tuple[Tensor, ...], total: Tensor, schedule: Schedule) -> None:
    """Takes in the total [B] of the codes `free`: the best of each row, and how long it has not become better."""
    rows = min(tensor.shape[0] for tensor in free)
    each = total.view(rows, -1).sum(1)  # one that is no number beats nothing
    if state.lowest is None or state.mark is None or state.stalled is None:
        unknown = torch.full_like(each, torch.inf)
        state.lowest, state.mark, state.stalled = unknown, unknown, torch.zeros_like(each, dtype=torch.int64)
        state.best = free if schedule.keep_best else ()
    beaten = each < state.mark - schedule.improvement * state.mark.abs().nan_to_num(posinf=0.0)
    state.mark = torch.where(beaten, each, state.mark)
    state.stalled = torch.where(beaten, 0, state.stalled + 1)
    if schedule.keep_best:
        better = each < state.lowest
        state.lowest = torch.where(better, each, state.lowest)
        state.best = tuple(
            torch.where(better.repeat_interleave(new.shape[0] // rows).view(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(free, state.best, strict=True)
        )


def _stalled(state: SolveState, schedule: Schedule) -> bool:
    return bool(schedule.patience) and state.stalled is not None and bool((state.stalled >= schedule.patience).all())


def _best(state: SolveState, code: Code, objective: Objective, synthesize: Synthesize) -> tuple[Tensor, ...]:
    """Each row at its lowest total, that after the last step included."""
    image, latents = code.draw(synthesize, state.free, None)
    total, _ = objective(image, latents, state.free)
    state.passes += image.shape[0]
    copy = replace(state)
    _remember(copy, state.free, total, Schedule(1, 0.0, keep_best=True))
    return copy.best
