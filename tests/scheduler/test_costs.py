"""What stages cost: seeds, quantiles that move, sizes that were never run."""

from __future__ import annotations

import pytest

from legato.costs import Costs


@pytest.fixture
def costs() -> Costs:
    return Costs((1, 2, 4), quantile=0.9, window=10, memory=10.0)


def test_nothing_is_known(costs: Costs) -> None:
    assert costs.of("refine", 4) == 0.0
    assert costs.total("refine", [1] * 7) == 0.0


def test_a_seed_counts_until_something_is_measured(costs: Costs) -> None:
    costs.seed("refine", 1, 0.5)
    assert costs.of("refine", 1) == 0.5
    costs.add("refine", 1, 0.1, now=0.0)
    assert costs.of("refine", 1) == 0.1


def test_the_figure_is_a_quantile_of_the_last_values(costs: Costs) -> None:
    for n in range(10):
        costs.add("refine", 1, 0.01 * n, now=0.0)
    assert costs.of("refine", 1) == 0.09
    for _ in range(9):
        costs.add("refine", 1, 0.001, now=0.0)
    assert costs.of("refine", 1) == 0.09  # one of ten
    costs.add("refine", 1, 0.001, now=0.0)
    assert costs.of("refine", 1) == 0.001


def test_another_quantile_may_be_asked_for(costs: Costs) -> None:
    for n in range(10):
        costs.add("refine", 1, 0.01 * n, now=0.0)
    assert (costs.of("refine", 1, 0.4), costs.of("refine", 1, 0.0), costs.of("refine", 1, 1.0)) == (0.04, 0.0, 0.09)
    costs.seed("encode", 1, 0.1)
    assert costs.of("encode", 2, 0.4) == 0.2


def test_slow_moments_are_forgotten(costs: Costs) -> None:
    costs.seed("refine", 1, 0.5)
    costs.add("refine", 1, 9.0, now=0.0)
    costs.add("refine", 1, 0.2, now=6.0)
    costs.forget(9.9)
    assert costs.of("refine", 1) == 9.0
    costs.forget(10.1)
    assert costs.of("refine", 1) == 0.2
    costs.forget(16.1)
    assert costs.of("refine", 1) == 0.5


def test_sizes_that_were_not_run_cost_what_smaller_ones_do(costs: Costs) -> None:
    costs.seed("encode", 1, 0.1)
    costs.seed("encode", 2, 0.15)
    assert costs.of("encode", 4) == 0.3
    assert costs.of("synthesize", 1) == 0.0


def test_many_go_in_the_largest_batches(costs: Costs) -> None:
    assert [costs.bucket(count) for count in range(1, 7)] == [1, 2, 2, 4, 4, 4]
    for size, seconds in ((1, 1.0), (2, 10.0), (4, 100.0)):
        costs.seed("encode", size, seconds)
    assert costs.total("encode", [1] * 11) == 2 * 100.0 + 10.0 + 1.0
    assert costs.total("encode", []) == 0.0


def test_a_synthesis_costs_what_its_images_do(costs: Costs) -> None:
    """Three frames go as two and one; a size between known ones costs what the next smaller one does, in proportion."""
    for images, seconds in ((1, 1.0), (4, 3.0)):
        costs.seed("synthesize", images, seconds)
    assert costs.total("synthesize", [3, 1, 2]) == costs.of("synthesize", 4) + costs.of("synthesize", 2) == 3.0 + 2.0
    assert costs.of("synthesize", 6) == 4.5
    costs.add("synthesize", 6, 4.0, now=0.0)
    assert costs.of("synthesize", 6) == 4.0
    assert costs.of("synthesize", 0) == 0.0  # latents alone


def test_sizes_that_are_given_up_are_not_reckoned_with(costs: Costs) -> None:
    costs.seed("refine", 2, 0.3)
    costs.seed("refine", 4, 0.5)
    costs.shrink(2)
    assert costs.bucket(7) == 2
    assert costs.total("refine", [1] * 4) == 0.6
