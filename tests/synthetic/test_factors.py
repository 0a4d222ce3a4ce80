"""Seeds, splits and the way from z to physical values."""

from __future__ import annotations

import pytest
import torch

from legato.synthetic.factors import (
    ATTRIBUTES,
    IDENTITY,
    MOTION,
    MOTION_START,
    Z_DIM,
    attributes_of,
    factors_of,
    normalize_z,
    sample_z,
    uniform,
    with_motion,
)
from tests.tolerances import EXACT, Z_ROUNDING

FACTORS = (*IDENTITY, *MOTION)


def test_a_seed_gives_the_same_head_whoever_is_asked_for_beside_it() -> None:
    alone = sample_z([7], "eval")
    among = sample_z([3, 7, 11], "eval")
    torch.testing.assert_close(alone[0], among[1], **EXACT)


def test_z_is_normalized_as_a_mapping_network_does() -> None:
    z = sample_z(range(32))
    assert z.shape == (32, Z_DIM)
    torch.testing.assert_close(z.square().mean(1), torch.ones(32), **Z_ROUNDING)
    torch.testing.assert_close(normalize_z(z), z, **Z_ROUNDING)


def test_splits_share_no_head() -> None:
    """Nor any factor's value: 2 x 500 heads of 64 draws each hold no number twice in the same place."""
    both = torch.cat([sample_z(range(500), "train"), sample_z(range(500), "eval")])
    for column in both.T:
        assert len(column.unique()) >= len(both) - 2  # floats of a Gaussian meet by chance, heads do not
    assert len(both.unique(dim=0)) == len(both)


def test_factors_are_spread_over_their_range() -> None:
    u = uniform(sample_z(range(400)))
    assert tuple(u) == FACTORS
    for name, values in u.items():
        assert values.min() < 0.05, name
        assert values.max() > 0.95, name
        assert abs(values.mean() - 0.5) < 0.06, name


def test_factors_are_what_the_geometry_takes() -> None:
    f = factors_of(sample_z(range(200)))
    for name, values in f.items():
        assert values.shape == (200, 3 if "color" in name else 1), name
        assert values.isfinite().all(), name
    for name in ("mouth_open", "blink", "fringe", "glasses", "skin_color", "hair_color", "background_color"):
        assert f[name].min() >= 0, name
        assert f[name].max() <= 1, name
    assert f["yaw"].abs().max() < 0.56
    assert (f["glasses"] == 0).float().mean() > 0.5, "most heads wear none"


@pytest.mark.parametrize("name", [name for name in ATTRIBUTES if name in FACTORS])
def test_an_attribute_follows_its_own_number_of_z_alone(name: str) -> None:
    """It never falls as the number grows, rises over the whole range, and no other attribute moves."""
    z = sample_z([1], "eval").repeat(21, 1)
    z[:, FACTORS.index(name)] = torch.linspace(-2.2, 2.2, 21)
    values = attributes_of(z)
    own = ATTRIBUTES.index(name)
    steps = values[1:] - values[:-1]
    assert (steps[:, own] >= 0).all()
    assert steps[:, own].sum() > 0.04
    others = [i for i in range(len(ATTRIBUTES)) if i != own]
    torch.testing.assert_close(steps[:, others], torch.zeros_like(steps[:, others]), **EXACT)


def test_attributes_are_the_physical_factors() -> None:
    z = sample_z(range(16))
    f, u, attributes = factors_of(z), uniform(z), attributes_of(z)
    for i, name in enumerate(ATTRIBUTES):
        expected = f[name][:, 0] if name in f else u[name]
        torch.testing.assert_close(attributes[:, i], expected, **EXACT)


def test_with_motion_replaces_motion_alone() -> None:
    z, motion = sample_z(range(3)), torch.randn(3, len(MOTION))
    before = z.clone()
    moved = with_motion(z, motion)
    torch.testing.assert_close(z, before, **EXACT)
    stop = MOTION_START + len(MOTION)
    torch.testing.assert_close(moved[:, MOTION_START:stop], motion, **EXACT)
    torch.testing.assert_close(moved[:, :MOTION_START], z[:, :MOTION_START], **EXACT)
    torch.testing.assert_close(moved[:, stop:], z[:, stop:], **EXACT)
