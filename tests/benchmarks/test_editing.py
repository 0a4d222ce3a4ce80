"""The arithmetic of the editing measurements: equal response, and correlation of trajectories."""

from __future__ import annotations

import pytest
import torch

from benchmarks.editing_region import equal_strength
from benchmarks.editing_transfer import correlation


def test_equal_response_is_found_between_strengths() -> None:
    strengths = torch.tensor([1.0, 2.0, 4.0])
    responses = torch.tensor([[1.0, 0.5, 1.0, 1.0], [3.0, 0.6, 3.0, 3.0], [2.0, 0.4, 4.0, 4.0]])
    found, reached = equal_strength(strengths, responses, torch.tensor([2.0, 1.0, 0.5, -1.0]))
    assert found.tolist() == pytest.approx([1.5, 2.0, 0.5, 0.0])  # between, the largest there is, before the first
    assert reached.tolist() == [True, False, True, False], "a response against the edit has no equal"


def test_correlation_is_of_shapes() -> None:
    a = torch.tensor([0.0, 1.0, 0.0, -1.0])
    assert correlation(a, 3 * a + 5) == pytest.approx(1.0)
    assert correlation(a, -a) == pytest.approx(-1.0)
    assert correlation(a, torch.ones(4)) == 0.0
