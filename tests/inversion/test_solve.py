"""The optimization loop: Adam as published, rows that do not touch each other, memory that can be carried on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from legato.inversion import Code, Correction, FreeLatents, FreeTerm, Objective, Schedule, Term, solve
from legato.inversion.objective import pixel
from legato.losses import mse
from legato.models import Curvature, CurvatureConfig
from tests.tolerances import ADAM_ROUNDING, EXACT

LAYERS, DIM, SIDE = 3, 4, 4
IDENTITY = Curvature(CurvatureConfig(LAYERS, DIM), spread=1.0)


class Problem:
    """A linear generator [B, L, D] -> [B, 3, 4, 4], targets, and starts."""

    def __init__(self, batch: int) -> None:
        self.matrix = torch.randn(LAYERS * DIM, 3 * SIDE * SIDE)
        self.target = torch.randn(batch, 3, SIDE, SIDE)
        self.start = torch.randn(batch, LAYERS, DIM)

    def synthesize(self, latents: Tensor) -> Tensor:
        return (latents.flatten(1) @ self.matrix).view(-1, 3, SIDE, SIDE)

    def objective(self, rows: slice = slice(None)) -> Objective:
        target = self.target[rows]
        return Objective((Term("square", 1.0, lambda image, latents: mse(image, target)), pixel(target, 0.3)))


def test_steps_are_those_of_torchs_adam() -> None:
    problem, schedule = Problem(2), Schedule(8, 0.1, cooldown=0.25)
    found = solve(FreeLatents(problem.start), problem.objective(), schedule, problem.synthesize)
    w = problem.start.clone().requires_grad_()
    adam = torch.optim.Adam([w], lr=0.1)
    for step in range(8):
        adam.param_groups[0]["lr"] = 0.1 * min(1.0, (1 - step / 8) / 0.25)
        total, _ = problem.objective()(problem.synthesize(w), w)
        adam.zero_grad()
        total.sum().backward()
        adam.step()
    torch.testing.assert_close(found.latents, w.detach(), **ADAM_ROUNDING)


def test_rates_fall_over_the_last_part() -> None:
    falling = Schedule(8, 0.4, cooldown=0.5)
    assert [falling.rate(step) for step in range(8)] == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.4, 0.3, 0.2, 0.1])
    assert [Schedule(3, 0.4).rate(step) for step in range(3)] == [0.4] * 3


def test_losses_are_per_term_per_step_per_image() -> None:
    problem = Problem(2)
    seen: list[int] = []
    found = solve(
        FreeLatents(problem.start), problem.objective(), Schedule(5, 0.1), problem.synthesize, on_step=seen.append
    )
    assert seen == [1, 2, 3, 4, 5]
    assert {name: list(trace.shape) for name, trace in found.losses.items()} == {"square": [5, 2], "pixel": [5, 2]}
    before = mse(problem.synthesize(problem.start), problem.target)
    torch.testing.assert_close(found.losses["square"][0], before, **EXACT)
    assert (mse(problem.synthesize(found.latents), problem.target) < before).all()
    assert found.seconds > 0


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    problem = Problem(3)
    problem.target[1] = float("nan")
    together = solve(FreeLatents(problem.start), problem.objective(), Schedule(5, 0.1), problem.synthesize)
    for row in (0, 2):
        rows = slice(row, row + 1)
        alone = solve(FreeLatents(problem.start[rows]), problem.objective(rows), Schedule(5, 0.1), problem.synthesize)
        torch.testing.assert_close(together.latents[rows], alone.latents, **ADAM_ROUNDING)
    assert together.latents[1].isnan().all()


def test_memory_carries_on_where_it_stopped() -> None:
    problem = Problem(2)
    whole = solve(FreeLatents(problem.start), problem.objective(), Schedule(5, 0.1), problem.synthesize)
    first = solve(FreeLatents(problem.start), problem.objective(), Schedule(2, 0.1), problem.synthesize)
    rest = solve(
        FreeLatents(first.free[0]), problem.objective(), Schedule(3, 0.1), problem.synthesize, moments=first.moments
    )
    torch.testing.assert_close(rest.latents, whole.latents, **EXACT)
    assert rest.moments[0].age.tolist() == [5.0, 5.0]


def test_a_correction_is_free_and_its_base_is_not() -> None:
    problem = Problem(2)
    base = torch.randn(2, LAYERS, DIM)
    code = Correction(base, problem.start - base, IDENTITY)
    found = solve(code, problem.objective(), Schedule(3, 0.1), problem.synthesize)
    direct = solve(FreeLatents(problem.start), problem.objective(), Schedule(3, 0.1), problem.synthesize)
    torch.testing.assert_close(found.latents, direct.latents, **ADAM_ROUNDING)
    torch.testing.assert_close(found.latents, base + found.free[0], **EXACT)


def test_no_steps_give_the_start_and_starts_stay_as_they_were() -> None:
    problem = Problem(2)
    kept = problem.start.clone()
    nothing = solve(FreeLatents(problem.start), problem.objective(), Schedule(0, 0.1), problem.synthesize)
    solve(FreeLatents(problem.start), problem.objective(), Schedule(2, 0.1), problem.synthesize)
    assert torch.equal(nothing.latents, kept)
    assert torch.equal(problem.start, kept)
    assert not problem.start.requires_grad
    assert nothing.losses == {}


def test_works_under_no_grad_on_tensors_of_inference_mode() -> None:
    problem = Problem(1)
    with torch.inference_mode():
        base = problem.start * 1.0
    with torch.no_grad():
        found = solve(
            Correction(base, torch.zeros_like(problem.start), IDENTITY),
            problem.objective(),
            Schedule(2, 0.1),
            problem.synthesize,
        )
    assert not torch.equal(found.latents, base)


def test_the_rate_rises_first_and_may_fall_along_a_cosine() -> None:
    rising = Schedule(8, 0.4, warmup=0.5)
    assert [rising.rate(step) for step in range(8)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])
    round_ = Schedule(8, 0.4, cooldown=0.5, fall="cosine")
    assert [round_.rate(step) for step in (3, 4, 6)] == pytest.approx([0.4, 0.4, 0.2])


def test_each_free_tensor_may_have_its_own_rate() -> None:
    problem = Problem(2)
    still = solve(
        SharedSteps(problem.start), problem.objective(), Schedule(3, 0.1, gains=(1.0, 0.0)), problem.synthesize
    )
    assert not torch.equal(still.free[0], problem.start)
    assert not still.free[1].any()
    with pytest.raises(ValueError, match="one gain for each of the 1 free"):
        solve(FreeLatents(problem.start), problem.objective(), Schedule(1, 0.1, gains=(1.0, 0.0)), problem.synthesize)


class SharedSteps(Code):
    """w = a + s: of each image, and one for all."""

    def __init__(self, initial: Tensor) -> None:
        self.initial = initial

    @property
    def start(self) -> tuple[Tensor, ...]:
        return self.initial, torch.zeros(1, LAYERS, DIM)

    def latents(self, *free: Tensor) -> Tensor:
        return free[0] + free[1]


def test_the_best_is_kept_row_by_row() -> None:
    problem = Problem(3)
    problem.target[1] = float("nan")
    schedule = Schedule(5, 1.0, keep_best=True)  # far too fast: totals go up and down
    found = solve(FreeLatents(problem.start), problem.objective(), schedule, problem.synthesize)
    total, _ = problem.objective()(problem.synthesize(found.latents), found.latents)
    last = solve(FreeLatents(problem.start), problem.objective(), Schedule(5, 1.0), problem.synthesize)
    final, _ = problem.objective()(problem.synthesize(last.latents), last.latents)
    for row in (0, 2):
        seen = torch.cat([found.totals[:, row], final[row : row + 1]])
        torch.testing.assert_close(total[row], seen.min(), **ADAM_ROUNDING)
        assert seen.min() < seen[-1]
    assert torch.equal(found.latents[1], problem.start[1])
    assert found.passes == 3 * (2 * 5 + 1)
    assert last.passes == 3 * 2 * 5


def test_rows_that_share_a_tensor_are_judged_together() -> None:
    problem = Problem(2)
    found = solve(
        SharedSteps(problem.start), problem.objective(), Schedule(30, 1.0, keep_best=True), problem.synthesize
    )
    total, _ = problem.objective()(problem.synthesize(found.latents), found.latents)
    assert float(total.sum()) <= float(found.totals.sum(1).min()) + ADAM_ROUNDING["atol"]
    torch.testing.assert_close(found.latents, found.free[0] + found.free[1], **EXACT)


def test_it_stops_when_no_row_becomes_better() -> None:
    problem = Problem(2)
    problem.start[0] = 0.0
    problem.target[0] = 0.0  # a row that is where it should be, and stays
    stalled = solve(
        FreeLatents(problem.start[:1]),
        problem.objective(slice(0, 1)),
        Schedule(50, 0.1, patience=4),
        problem.synthesize,
    )
    assert stalled.steps == 5  # the first total beats none
    assert stalled.totals.shape == (5, 1)
    both = solve(FreeLatents(problem.start), problem.objective(), Schedule(50, 0.02, patience=4), problem.synthesize)
    assert both.steps > 5


def test_totals_are_the_weighted_sums_of_the_terms() -> None:
    problem = Problem(2)
    norm = FreeTerm("norm", 0.5, lambda w: w.square().mean((1, 2)))
    objective = Objective(problem.objective().terms, (norm,))
    found = solve(FreeLatents(problem.start), objective, Schedule(3, 0.1), problem.synthesize)
    weighted = found.losses["square"] + 0.3 * found.losses["pixel"] + 0.5 * found.losses["norm"]
    torch.testing.assert_close(found.totals, weighted, **ADAM_ROUNDING)
    torch.testing.assert_close(found.losses["norm"][0], problem.start.square().mean((1, 2)), **EXACT)
    plain = solve(FreeLatents(problem.start), problem.objective(), Schedule(3, 0.1), problem.synthesize)
    assert found.latents.norm() < plain.latents.norm()
