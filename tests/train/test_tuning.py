"""Pivotal tuning: images come closer at their codes, others stay, chosen layers move, and it goes on to the bit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from legato.models.generator import Generator
from legato.synthetic.dataset import Heads
from legato.train.tuning import Tuning, TuningConfig, mean_distance, moving_parameters
from tests.tolerances import EXACT
from tests.train.small import GENERATOR_16, assert_resumes_to_the_bit, pictures

CONFIG = TuningConfig(steps=40, batch=2, rate=1e-2, locality=0.0, checkpoint_seconds=1e9)


def generator() -> Generator:
    torch.manual_seed(5)
    return Generator(GENERATOR_16).eval().requires_grad_(False)


def tuning(folder: Path, config: TuningConfig = CONFIG) -> Tuning:
    data = Heads(pictures(3, 16), np.zeros((3, 2, 8, 8), np.uint8), np.arange(3))
    pivots = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    return Tuning(config, folder, generator(), pivots, data)


def test_the_pictures_come_closer_and_the_generator_stays(tmp_path: Path) -> None:
    run = tuning(tmp_path)
    weights = {name: t.clone() for name, t in run.generator.state_dict().items()}
    before = run.quality(run.tuned)
    run.run()
    assert run.quality(run.tuned) > before + 3
    for name, tensor in run.generator.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], **EXACT)
    assert abs(run.quality(run.rounded().train()) - run.quality(run.tuned)) < 0.1


def test_other_codes_stay_more_with_locality(tmp_path: Path) -> None:
    """The change of images at codes that no step saw, on the ways towards random ones."""
    free = tuning(tmp_path / "free")
    held = tuning(tmp_path / "held", replace(CONFIG, locality=5.0))
    moved = []
    for run in (free, held):
        run.run()
        z = torch.randn(16, 8, generator=torch.Generator().manual_seed(9))
        way = run.generator.map(z) - run.pivots[:1]
        codes = run.pivots[:1] + run.distance * way / way.norm(dim=2, keepdim=True)
        with torch.no_grad():
            moved.append(float((run.tuned(codes) - run.generator(codes)).abs().mean()))
    assert moved[1] < 0.7 * moved[0]


def test_chosen_layers_alone_move(tmp_path: Path) -> None:
    run = tuning(tmp_path, replace(CONFIG, steps=2, layers=(2, 3)))
    run.run()
    before = run.generator.state_dict()
    changed = {name for name, t in run.tuned.state_dict().items() if not torch.equal(t, before[name])}
    assert changed
    # Layer 2: the second convolution at 8 pixels; layer 3: the ToRGB there, and the first convolution at 16.
    assert {".".join(name.split(".")[1:3]) for name in changed} == {"b8.conv1", "b8.torgb", "b16.conv0"}


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layers are among 0 \.\.\. 5.*got \[6\]"):
        moving_parameters(generator(), [6])


def test_every_picture_is_seen_as_often(tmp_path: Path) -> None:
    run = tuning(tmp_path)
    seen = torch.cat([run._order(first, 2) for first in range(0, 12, 2)])
    assert sorted(seen[:3].tolist()) == sorted(seen[3:6].tolist()) == [0, 1, 2]
    assert seen.bincount().tolist() == [4, 4, 4]


def test_elsewhere_is_a_fixed_way_off(tmp_path: Path) -> None:
    run = tuning(tmp_path)
    codes = run._elsewhere(run.pivots)
    away = (codes - run.pivots).norm(dim=2)
    torch.testing.assert_close(away, torch.full_like(away, run.distance))
    assert run.distance == mean_distance(run.generator, 1)
    assert math.isfinite(run.distance)
    assert run.distance > 0


def test_goes_on_to_the_bit(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=4, locality=0.1, checkpoint_seconds=0)
    assert_resumes_to_the_bit(lambda folder: tuning(folder, config), tmp_path, 3)
