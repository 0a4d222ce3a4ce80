"""Directions from codes of two kinds: they lead from one kind to the other, and say where they come from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from legato.editing.labeled import CHANNEL_STEP, Labeled, boundary_directions, channel_directions, label_samples
from legato.editing.style_space import ChannelEdit, edit_styles, split_styles, style_rows, style_statistics
from legato.errors import InvalidInput
from legato.types import Edit
from tests.models.golden import golden_generator
from tests.tolerances import GENERATOR_ROUNDING

RED, BRIGHT = 0, 1


def scores(images: Tensor) -> Tensor:
    """[B, 2]: how red images are, and how bright."""
    return torch.stack([images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3)), images.mean((1, 2, 3))], 1)


def test_samples_are_labeled_by_their_scores() -> None:
    generator, done = golden_generator(), list[int]()
    found = label_samples(
        generator, scores, {"red": RED, "bright": BRIGHT}, samples=100, ratio=0.1, on_batch=done.append
    )
    assert sum(done) == 100
    for name, column in (("red", RED), ("bright", BRIGHT)):
        kinds = (found[name].positive, found[name].negative)
        assert all(codes.shape == (10, 10) for codes in kinds)
        high, low = (scores(generator(codes[:, None].expand(-1, 6, -1)).clamp(-1, 1))[:, column] for codes in kinds)
        assert high.min() > low.max()
        assert high[0] == high.max(), "the surest first"
    with pytest.raises(InvalidInput, match="take more samples"):
        label_samples(generator, scores, {"red": RED}, samples=10, ratio=0.1)


def test_a_boundary_s_direction_raises_the_score() -> None:
    generator = golden_generator()
    labeled = label_samples(generator, scores, {"red": RED, "bright": BRIGHT}, samples=400)
    found, provenance = boundary_directions(generator, labeled, ["red"], layers=(0, 1))
    assert found.names == ("red",)
    assert found.generator_digest == generator.digest
    assert not found.vector("red")[2:].any()
    assert "accuracy" in found.info("red").description
    assert provenance["boundaries"]["red"]["samples"] == 56  # 70 % of twice 40
    whole, _ = boundary_directions(generator, labeled, ["red"])
    codes = generator.map(torch.randn(16, 12))
    with torch.no_grad():
        change = scores(generator(codes + 2 * whole.vector("red"))) - scores(generator(codes))
    assert change[:, RED].mean() > 0


def test_a_condition_is_left_alone() -> None:
    draw = torch.Generator().manual_seed(3)
    codes = torch.randn(400, 10, generator=draw)
    kinds = {
        "a": Labeled(codes[codes[:, 0] + codes[:, 1] > 0], codes[codes[:, 0] + codes[:, 1] < 0]),
        "b": Labeled(codes[codes[:, 1] > 0], codes[codes[:, 1] < 0]),
    }
    generator = golden_generator()
    free, _ = boundary_directions(generator, kinds, ["a", "b"])
    bound, provenance = boundary_directions(generator, kinds, ["a"], conditions=["b"])
    other = F.normalize(free.vector("b")[0], dim=0)
    assert abs(float(F.normalize(free.vector("a")[0], dim=0) @ other)) > 0.5
    assert abs(float(F.normalize(bound.vector("a")[0], dim=0) @ other)) < 1e-4
    assert provenance["conditions"] == ["b"]
    assert "without b" in bound.info("a").description


def test_codes_of_w_plus_give_layers_of_their_own() -> None:
    codes = torch.randn(40, 6, 10)
    codes[:20, 2] += 3
    kinds = {"name": Labeled(codes[:20], codes[20:])}
    found, _ = boundary_directions(golden_generator(), kinds, ["name"])
    energy = found.vector("name").square().sum(1)
    assert energy[2] > energy.sum() / 2


def test_one_kind_alone_is_refused() -> None:
    kinds = {"name": Labeled(torch.randn(10, 10), torch.randn(0, 10))}
    with pytest.raises(InvalidInput, match="codes of both kinds"):
        boundary_directions(golden_generator(), kinds, ["name"])


def test_the_channel_that_positives_share_is_a_step_of_its_own() -> None:
    """Exactly `CHANNEL_STEP` deviations of one channel; the layers of W+ tell where channels are searched."""
    generator = golden_generator()
    statistics = style_statistics(generator, samples=2000)
    w = generator.map(torch.randn(12, 12))
    labels = {"name": Labeled(w, w[:0])}
    found, provenance = channel_directions(generator, labels, count=3, samples=2000, layers=[1, 2])
    assert provenance["space"] == "s"
    for name in found.names:
        assert found.info(name).space == "s"
        layer, channel = (int(part) for part in name.split("_")[1:])
        assert style_rows(generator)[layer] in (1, 2)
        step = split_styles(generator, found.style_step(name)[None])
        sign = 1 if provenance["channels"]["name"][f"{layer}_{channel}"] > 0 else -1
        assert step[layer][0, channel] == sign * CHANNEL_STEP * statistics.deviation[layer][channel]
        assert sum(int(part.count_nonzero()) for part in step) == 1
        styles = generator.styles(w)
        moved = edit_styles(styles, [[ChannelEdit(layer, channel, sign * 2 * CHANNEL_STEP)]] * 12, statistics)
        images = found.images(generator, w, [[Edit(name, 2.0)]] * 12)
        torch.testing.assert_close(images, generator.synthesize(moved), **GENERATOR_ROUNDING)


def test_the_channel_that_positives_share_is_a_step_of_w() -> None:
    """Positives were made by moving the styles of one layer's row along one channel's nearest step."""
    generator = golden_generator()
    statistics = style_statistics(generator, samples=2000)
    w = generator.map(torch.randn(12, 12))
    found, provenance = channel_directions(generator, {"name": Labeled(w, w[:0])}, count=3, samples=2000, space="w+")
    assert len(found.names) == 3
    assert provenance["channels"].keys() == {"name"}
    for name in found.names:
        layer, channel = (int(part) for part in name.split("_")[1:])
        step = generator.styles(w + found.vector(name))[layer] - generator.styles(w)[layer]
        wanted = CHANNEL_STEP * statistics.deviation[layer][channel]
        sign = 1 if provenance["channels"]["name"][f"{layer}_{channel}"] > 0 else -1
        moved = step[:, channel].mean() * sign
        assert 0 < moved <= wanted * 1.001, "least squares never overshoots its one target"
        assert "reached" in found.info(name).description
