"""The optimization loop of every inversion: Code x Objective x Schedule -> Inversion."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.inversion.code import Code
from legato.inversion.objective import Objective

Synthesize = Callable[[Tensor], Tensor]  # latents [B, L, D] -> images [B, 3, R, R] in [-1, 1], differentiable


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: `steps` of Adam at rate `lr`, falling linearly to 0 over the last `cooldown` of them."""

    steps: int
    lr: float
    cooldown: float = 0.0  # fraction of the steps, 0..1
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        left = 1.0 - step / self.steps
        return self.lr * min(1.0, left / self.cooldown) if self.cooldown > 0.0 else self.lr


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Adam's memory of one free tensor. Each row has its own age, so that rows of different age share a batch."""

    first: Tensor  # shape of the free tensor
    second: Tensor  # shape of the free tensor
    age: Tensor  # [rows] float32: steps taken

    @staticmethod
    def zeros(free: Tensor) -> Moments:
        """The memory of a free tensor that has taken no step."""
        return Moments(torch.zeros_like(free), torch.zeros_like(free), free.new_zeros(free.shape[0]))


@dataclass(frozen=True, slots=True, eq=False)
class Inversion:
    """What an optimization found."""

    latents: Tensor  # [B, L, D]
    free: tuple[Tensor, ...]  # the free tensors after the last step
    moments: tuple[Moments, ...]  # Adam's memory, to go on from here
    losses: Mapping[str, Tensor]  # per term, unweighted, before each step: [steps, B]
    seconds: float


def solve(
    code: Code,
    objective: Objective,
    schedule: Schedule,
    synthesize: Synthesize,
    *,
    moments: tuple[Moments, ...] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Inversion:
    """Minimizes the objective over the code's free tensors.

    The images of a batch do not touch each other: the sum over the batch is minimized, and each image's gradient is
    that of its own loss.

    Args:
        code: what is free, and how it becomes latents.
        objective: what is minimized.
        schedule: how many steps and how large.
        synthesize: the generator from latents to images. Its parameters should not require gradients.
        moments: Adam's memory of an earlier solve of the same tensors; None starts afresh.
        on_step: called after each step with the number of steps taken, for progress.
    """
    began = time.perf_counter()
    free = tuple(start.detach().clone() for start in code.start)
    memory = moments or tuple(Moments.zeros(tensor) for tensor in free)
    trace: list[dict[str, Tensor]] = []
    for step in range(schedule.steps):
        with torch.enable_grad():
            leaves = tuple(tensor.requires_grad_() for tensor in free)
            latents = code.latents(*leaves)
            total, losses = objective(synthesize(latents), latents)
            gradients = torch.autograd.grad(total.sum(), leaves)
        moved = [
            _adam(tensor.detach(), gradient, known, schedule, step)
            for tensor, gradient, known in zip(leaves, gradients, memory, strict=True)
        ]
        free, memory = tuple(tensor for tensor, _ in moved), tuple(known for _, known in moved)
        trace.append(losses)
        if on_step is not None:
            on_step(step + 1)
    with torch.no_grad():
        found = code.latents(*free)
    stacked = {name: torch.stack([losses[name] for losses in trace]) for name in (trace[0] if trace else ())}
    return Inversion(found, free, memory, stacked, time.perf_counter() - began)


@torch.no_grad()
def _adam(free: Tensor, gradient: Tensor, known: Moments, schedule: Schedule, step: int) -> tuple[Tensor, Moments]:
    """One step of Adam (Kingma and Ba 2015, Algorithm 1) with the bias correction of each row's own age."""
    beta1, beta2 = schedule.betas
    age = known.age + 1.0
    first = torch.lerp(gradient, known.first, beta1)
    second = torch.lerp(gradient.square(), known.second, beta2)
    rows = (-1, *[1] * (free.dim() - 1))
    unbiased = first / (1.0 - beta1**age).view(rows)
    scale = (second / (1.0 - beta2**age).view(rows)).sqrt() + schedule.epsilon
    return free - schedule.rate(step) * unbiased / scale, Moments(first, second, age)
