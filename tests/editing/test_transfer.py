"""Steps of a clip on another code; the running basis of a stream's steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from legato.editing.directions import load_directions, save_directions
from legato.editing.transfer import RunningBasis, steps_of, transfer
from tests.models.golden import golden_generator
from tests.tolerances import DIRECTION_ROUNDING, FADED_SUM, GENERATOR_ROUNDING


def test_shared_steps_come_back_from_the_codes_that_they_made() -> None:
    steps = torch.randn(4, 5)
    clip = transfer(torch.randn(6, 5), steps)
    assert clip.shape == (5, 6, 5)
    torch.testing.assert_close(steps_of(clip), steps, **GENERATOR_ROUNDING)
    torch.testing.assert_close(steps_of(clip, shared=False), steps[:, None].expand(4, 6, 5), **GENERATOR_ROUNDING)


def test_another_subject_moves_alike_on_the_layers_given() -> None:
    clip, other = torch.randn(5, 6, 4), torch.randn(6, 4)
    moved = transfer(other, steps_of(clip, shared=False), strength=0.5, layers=[1, 2])
    assert torch.equal(moved[0], other)
    expected = other[1:3] + 0.5 * (clip[:, 1:3] - clip[0, 1:3])
    torch.testing.assert_close(moved[:, 1:3], expected, **GENERATOR_ROUNDING)
    assert torch.equal(moved[:, [0, 3, 4, 5]], other[[0, 3, 4, 5]].expand(5, 4, 4))


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"at least 2 frames; got \[1, 6, 4\]"):
        steps_of(torch.zeros(1, 6, 4))
    with pytest.raises(ValueError, match=r"got \[6, 4\] and \[3, 5\]"):
        transfer(torch.zeros(6, 4), torch.zeros(3, 5))


def moving(axes: Tensor, sizes: Tensor, count: int) -> Tensor:
    return torch.randn(count, len(sizes)) * sizes @ axes


def test_basis_is_the_pca_about_zero_when_nothing_fades() -> None:
    axes = torch.linalg.qr(torch.randn(16, 3)).Q.T
    steps = moving(axes, torch.tensor([3.0, 1.0, 0.3]), 60)
    basis = RunningBasis.zeros(1, components=4, dim=16)
    for step in steps:
        basis = basis.update(step[None], decay=1.0)
    values, vectors = torch.linalg.eigh(steps.double().T @ steps.double())
    torch.testing.assert_close(basis.energy[0, :3].double(), values.flip(0)[:3], **DIRECTION_ROUNDING)
    alike = (basis.vectors[0, :3].double() * vectors.flip(1).T[:3]).sum(1).abs()
    torch.testing.assert_close(alike, torch.ones(3).double(), **DIRECTION_ROUNDING)
    assert basis.energy[0, 3] == 0
    assert basis.vectors[0, 3].abs().max() == 0
    assert float(basis.weight) == 60
    torch.testing.assert_close(basis.deviations[0, :3].double(), (values.flip(0)[:3] / 60).sqrt(), **DIRECTION_ROUNDING)


def test_old_steps_fade() -> None:
    old, new = torch.eye(8)[:2]
    basis = RunningBasis.zeros(1, components=2, dim=8)
    for k in range(60):
        basis = basis.update((old if k < 30 else new)[None], decay=0.8)
    torch.testing.assert_close(basis.vectors[0, 0].abs(), new, **GENERATOR_ROUNDING)
    assert basis.energy[0, 1] < 0.01 * basis.energy[0, 0]
    assert float(basis.weight) == pytest.approx(5.0, rel=FADED_SUM)


def test_rows_do_not_touch_each_other_and_may_rest() -> None:
    steps = torch.randn(20, 3, 8)
    together, alone = RunningBasis.zeros(3, components=2, dim=8), RunningBasis.zeros(1, components=2, dim=8)
    moved = torch.tensor([True, True, False])
    for step in steps:
        together = together.update(step, moved)
        alone = alone.update(step[1:2])
    torch.testing.assert_close(together.vectors[1], alone.vectors[0], **GENERATOR_ROUNDING)
    torch.testing.assert_close(together.energy[1], alone.energy[0], **GENERATOR_ROUNDING)
    for tensor in (together.vectors, together.energy, together.weight):
        assert tensor[2].abs().max() == 0


def test_basis_stays_orthonormal_and_keeps_its_signs_over_a_long_stream() -> None:
    axes = torch.linalg.qr(torch.randn(32, 4)).Q.T
    basis = RunningBasis.zeros(1, components=4, dim=32)
    before = torch.zeros(4, 32)
    for k, step in enumerate(moving(axes, torch.tensor([8.0, 4.0, 2.0, 1.0]), 400)):
        basis = basis.update(step[None] + 0.01 * torch.randn(1, 32))
        if k > 100:
            assert ((basis.vectors[0] * before).sum(1) >= 0).all()
        before = basis.vectors[0]
    gram = basis.vectors[0] @ basis.vectors[0].T
    torch.testing.assert_close(gram, torch.eye(4), **GENERATOR_ROUNDING)
    assert float((basis.vectors[0, 0] @ axes[0]).abs()) > 0.95


def test_nothing_moved_is_no_direction_and_not_nan() -> None:
    generator = golden_generator()
    basis = RunningBasis.zeros(2, components=3, dim=10).update(torch.zeros(2, 10))
    assert all(t.isfinite().all() for t in (basis.vectors, basis.energy, basis.deviations))
    assert basis.directions(0, generator).names == ()


def test_directions_of_a_stream(tmp_path: Path) -> None:
    generator = golden_generator()
    generator.digest = "ab" * 32
    axis = torch.nn.functional.normalize(torch.randn(10), dim=0)
    basis = RunningBasis.zeros(2, components=3, dim=10)
    for size in (0.5, -0.5, 0.5, -0.5):
        basis = basis.update(torch.stack([size * axis, torch.zeros(10)]), decay=1.0)
    directions = basis.directions(0, generator)
    assert directions.names == ("session_0",)
    expected = (0.5 * axis).expand(6, 10)
    sign = torch.sign(directions.vector("session_0")[0] @ axis)
    torch.testing.assert_close(directions.vector("session_0"), sign * expected, **GENERATOR_ROUNDING)
    save_directions(directions, tmp_path / "directions.safetensors", provenance={"method": "session"})
    assert load_directions(tmp_path, generator_digest="ab" * 32).names == ("session_0",)
