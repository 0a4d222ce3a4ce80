"""The sliced Wasserstein distance: 0 of a set to itself, more for a set that is less alike, on every scale."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from legato.train.sliced import sliced_distance


def test_tells_sets_apart() -> None:
    torch.manual_seed(0)
    x, same = torch.randn(64, 3, 32, 32), torch.randn(64, 3, 32, 32)
    flat = F.interpolate(torch.randn(64, 3, 4, 4), size=(32, 32))
    assert sliced_distance(x, x) == 0.0
    near, far = sliced_distance(x, same), sliced_distance(x, flat)
    assert 0 < near < far / 2
    assert sliced_distance(x, same, seed=0) == near


def test_wants_sets_of_one_size() -> None:
    with pytest.raises(ValueError, match="two sets of one size"):
        sliced_distance(torch.zeros(2, 3, 16, 16), torch.zeros(3, 3, 16, 16))
