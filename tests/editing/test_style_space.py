"""Channels of S: statistics, edits, what stands out, where a channel acts, and the way back to W+."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from legato.editing.style_space import (
    Channel,
    ChannelEdit,
    attribute_channels,
    channel_maps,
    edit_styles,
    flatten_styles,
    localized_channels,
    nearest_latents,
    split_styles,
    style_rows,
    style_statistics,
)
from legato.errors import InvalidEdit
from legato.models import Generator
from tests.models.golden import golden_generator, golden_z
from tests.tolerances import DIRECTION_ROUNDING, GENERATOR_ROUNDING

LAYERS = 8  # of S at 16 px: b4 two, b8 and b16 three each


@pytest.fixture
def generator() -> Generator:
    return golden_generator()


def test_statistics_of_the_population(generator: Generator) -> None:
    found = style_statistics(generator, samples=700)
    z = torch.randn(700, generator.config.z_dim, generator=torch.Generator().manual_seed(5))
    for mean, deviation, styles in zip(found.mean, found.deviation, generator.styles(generator.map(z)), strict=True):
        torch.testing.assert_close(mean, styles.mean(0), **GENERATOR_ROUNDING)
        torch.testing.assert_close(deviation, styles.std(0, correction=0), **GENERATOR_ROUNDING)
    assert found.searched == (True, False, True, True, False, True, True, False)
    assert found.samples == 700


def test_flat_and_split_are_inverse(generator: Generator) -> None:
    styles = generator.styles(generator.map(golden_z()))
    again = split_styles(generator, flatten_styles(styles))
    assert all(torch.equal(a, b) for a, b in zip(styles, again, strict=True))


def test_edits_move_their_channel_by_deviations(generator: Generator) -> None:
    statistics = style_statistics(generator, samples=300)
    styles = generator.styles(generator.map(golden_z()))
    kept = [layer.clone() for layer in styles]
    edited = edit_styles(styles, [[ChannelEdit(2, 3, 10.0), ChannelEdit(2, 3, -4.0)], []], statistics)
    assert all(torch.equal(a, b) for a, b in zip(styles, kept, strict=True))
    moved = flatten_styles(edited) - flatten_styles(styles)
    assert moved.nonzero().tolist() == [[0, sum(layer.shape[1] for layer in styles[:2]) + 3]]
    torch.testing.assert_close(moved.sum(), 6 * statistics.deviation[2][3], **GENERATOR_ROUNDING)
    for layer, channel in ((8, 0), (-1, 0), (0, 16), (0, -1)):
        with pytest.raises(InvalidEdit, match=f"no style channel {layer}_{channel}: the layers have"):
            edit_styles(styles, [[ChannelEdit(layer, channel, 1.0)], []], statistics)
    with pytest.raises(ValueError, match="2 samples, 1 lists"):
        edit_styles(styles, [[]], statistics)


def test_channels_in_which_positives_stand_out(generator: Generator) -> None:
    statistics = style_statistics(generator, samples=2000)
    z = torch.randn(20, generator.config.z_dim)
    positives = generator.styles(generator.map(z))
    positives[3][:, 5] = statistics.mean[3][5] - 6 * statistics.deviation[3][5] * (1 + 0.1 * torch.randn(20))
    positives[0][:, 2] = statistics.mean[0][2] + 3 * statistics.deviation[0][2] * (1 + 0.2 * torch.randn(20))
    positives[1] += 1000.0  # a ToRGB is not searched
    found = attribute_channels(statistics, positives, count=2)
    assert [channel for channel, _ in found] == [Channel(3, 5), Channel(0, 2)]
    assert found[0][1] < -5
    assert found[1][1] > 3
    with pytest.raises(ValueError, match="at least 2 positive"):
        attribute_channels(statistics, [layer[:1] for layer in positives])


def test_maps_are_what_a_small_step_of_a_channel_changes(generator: Generator) -> None:
    generator = generator.double()
    latents = generator.map(golden_z()[:1].double()).double()
    maps = channel_maps(generator, latents, side=4, batch=7)
    styles = generator.styles(latents)
    for layer, channel in ((0, 1), (3, 4), (6, 7), (7, 2)):
        images = []
        for sign in (1, -1):
            moved = [s.clone() for s in styles]
            moved[layer][:, channel] += sign * 1e-3
            images.append(torch.nn.functional.adaptive_avg_pool2d(generator.synthesize(moved), 4))
        expected = ((images[0] - images[1]) / 2e-3).abs().mean(1)[0]
        torch.testing.assert_close(maps[layer][channel], expected.to(maps[layer]), **DIRECTION_ROUNDING)
    with pytest.raises(ValueError, match=r"latents \[1, L, D\]; got \[2, 6, 10\]"):
        channel_maps(generator, latents.expand(2, -1, -1), side=4)


def test_localized_channels_win_one_region(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps given: one channel acts left above, one right below, one everywhere, one nowhere."""
    sizes = [layer.shape[1] for layer in generator.styles(generator.map(golden_z()[:1]))]

    def maps(generator: Generator, latents: Tensor, *, side: int) -> list[Tensor]:
        drawn = [torch.zeros(size, side, side) for size in sizes]
        drawn[2][3, :4, :4] = 1.0
        drawn[5][1, 4:, 4:] = 0.1
        drawn[3][0] = torch.rand(side, side)
        drawn[1][0, :4, :4] = 9.0  # of a ToRGB
        return drawn

    monkeypatch.setattr("legato.editing.style_space.channel_maps", maps)
    eyes, mouth = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    eyes[..., :8, :8], mouth[..., 8:, 8:] = 1, 1
    latents = generator.map(golden_z()[:1])
    samples = [(latents, {"eyes": eyes, "mouth": mouth}) for _ in range(4)]
    samples += [(latents, {"mouth": mouth}), (latents, {})]  # an image without eyes says nothing of them
    found = localized_channels(generator, samples, side=8)
    assert found["eyes"][0] == (Channel(2, 3), 1.0)
    assert (Channel(5, 1), 1.0) in found["mouth"]
    everywhere = [c for region in found.values() for c, _ in region if c not in ((2, 3), (5, 1))]
    assert set(everywhere) <= {(3, 0)}
    assert localized_channels(generator, []) == {}


def test_steps_of_s_that_w_plus_reaches_come_back(generator: Generator) -> None:
    step = torch.randn(6, 10)
    latents = generator.map(golden_z()[:1])
    change = [a[0] - b[0] for a, b in zip(generator.styles(latents + step), generator.styles(latents), strict=True)]
    found, reached = nearest_latents(generator, change)
    again = [a - b for a, b in zip(generator.styles(latents + found), generator.styles(latents), strict=True)]
    for a, b in zip(again, change, strict=True):  # w has more dimensions than the finest layers have channels
        torch.testing.assert_close(a[0], b, **DIRECTION_ROUNDING)
    torch.testing.assert_close(found[:4], step[:4], **DIRECTION_ROUNDING)
    assert reached == pytest.approx(1.0)
    alone = [torch.zeros_like(layer) for layer in change]
    alone[3][2] = 1.0
    found, reached = nearest_latents(generator, alone)
    assert 0 < reached < 1
    assert found[[0, 1, 3, 4, 5]].abs().max() == 0
    assert nearest_latents(generator, [torch.zeros_like(layer) for layer in change])[1] == 1.0


def test_rows_that_layers_read(generator: Generator) -> None:
    assert style_rows(generator) == [0, 1, 1, 2, 3, 3, 4, 5]
    latents = generator.map(golden_z()[:1])
    for row in range(6):
        moved = latents.clone()
        moved[:, row] += 1
        pairs = zip(generator.styles(latents), generator.styles(moved), strict=True)
        changed = [i for i, (a, b) in enumerate(pairs) if not torch.equal(a, b)]
        assert changed == [i for i, at in enumerate(style_rows(generator)) if at == row]
    assert len(style_rows(generator)) == LAYERS
