"""Several codes for one image: the composition written out, its limits, what is found, moved and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from legato.errors import InvalidInput
from legato.inversion import Checkpoint, Composition, MultiCodeOptions, multi_code
from legato.inversion.multi_code import begin, head_layers
from legato.inversion.roles import by_layer, roles
from legato.losses import psnr
from legato.models import Features, Generator
from tests.pipeline.model import DIM, LAYERS, SIDE, small_model, stream, to_image
from tests.tolerances import COMPOSED_IMAGE, EXACT, LOSS_ROUNDING, PART

BRIEF = MultiCodeOptions(codes=3, resolution=8, steps=8, lr=0.1)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return small_model().generator.requires_grad_(False)


def images() -> Tensor:
    """Two pictures [2, 3, 64, 64] that the generator does not know: drawn by another one."""
    return torch.cat([to_image(frame) for frame in stream(small_model(seed=7), 2)])


def random(generator: Generator, per_layer: bool = True, resolution: int = 8, batch: int = 2) -> Composition:
    options = MultiCodeOptions(codes=3, resolution=resolution, per_layer=per_layer)
    composition = begin(generator, batch, options)
    return replace(
        composition,
        codes=torch.randn_like(composition.codes),
        importances=torch.randn_like(composition.importances),
        tail=torch.randn_like(composition.tail),
    )


@pytest.mark.parametrize("resolution", [4, 8, 32])
@pytest.mark.parametrize("per_layer", [False, True])
def test_an_image_is_its_composition_written_out(generator: Generator, per_layer: bool, resolution: int) -> None:
    given = random(generator, per_layer, resolution)
    depth, channels = head_layers(resolution), generator.config.channels(resolution)
    assert given.codes.shape == (2, 3, depth if per_layer else 1, DIM)
    assert given.tail.shape == (2, LAYERS - depth + 1, DIM)
    for row in range(2):
        x, rgb = torch.zeros(1, channels, resolution, resolution), torch.zeros(1, 3, resolution, resolution)
        for n in range(3):
            latents = torch.zeros(1, LAYERS, DIM)
            latents[:, :depth] = given.codes[row, n]
            handed = generator.head(generator.styles(latents), resolution)
            weights = given.importances[row, n]
            x += weights[:channels, None, None] * handed.x
            rgb += weights[channels:, None, None] * handed.rgb
        latents = torch.zeros(1, LAYERS, DIM)
        latents[:, depth - 1 :] = given.tail[row]
        wanted = generator.tail(Features(x, rgb), generator.styles(latents), resolution)
        torch.testing.assert_close(given.image(generator)[row : row + 1], wanted, **COMPOSED_IMAGE)


def test_one_code_of_importance_one_is_the_generator_itself(generator: Generator) -> None:
    w = torch.randn(2, LAYERS, DIM)
    start = begin(generator, 2, MultiCodeOptions(codes=1, resolution=16, per_layer=True), start=w)
    depth = head_layers(16)
    single = replace(start, codes=w[:, None, :depth])
    torch.testing.assert_close(single.image(generator), generator(w), **COMPOSED_IMAGE)
    torch.testing.assert_close(single.latents(LAYERS), w, **LOSS_ROUNDING)


def test_where_it_begins(generator: Generator) -> None:
    generator.w_avg.normal_(generator=torch.Generator().manual_seed(0))
    begun = begin(generator, 2, BRIEF)
    assert (begun.importances == 1 / 3).all()
    torch.testing.assert_close(begun.tail, generator.w_avg.expand_as(begun.tail), **EXACT)
    assert begun.codes.flatten(0, 1).unique(dim=0).shape[0] == 6
    torch.testing.assert_close(begin(generator, 2, BRIEF).codes, begun.codes, **EXACT)
    w = torch.randn(2, LAYERS, DIM)
    around = begin(generator, 2, BRIEF, w)
    torch.testing.assert_close(around.tail, w[:, 3:], **EXACT)
    shift = w[:, None, :4] - generator.w_avg
    torch.testing.assert_close(around.codes - begun.codes, shift.expand_as(begun.codes), **LOSS_ROUNDING)
    single = begin(generator, 2, replace(BRIEF, per_layer=False), w)
    middle = begin(generator, 2, replace(BRIEF, per_layer=False)).codes + shift.mean(2, keepdim=True)
    torch.testing.assert_close(single.codes, middle, **LOSS_ROUNDING)
    at = begin(generator, 2, replace(BRIEF, codes=1), w)
    torch.testing.assert_close(at.image(generator), generator(w), **COMPOSED_IMAGE)
    generator.w_avg.zero_()


def test_a_prior_keeps_codes_where_they_began(generator: Generator) -> None:
    w, target = torch.randn(2, LAYERS, DIM), images()

    def distances(weight: float, free_tail: bool = True) -> Tensor:
        options = replace(BRIEF, prior_weight=weight, free_tail=free_tail)
        found = multi_code(generator, target, options=options, start=w)
        codes = (found.composition.codes - w[:, None, : head_layers(8)]).flatten(1, 2)
        whole = torch.cat([codes, found.composition.tail - w[:, head_layers(8) - 1 :]], 1)
        if weight:
            begun = begin(generator, 2, options, w)
            apart = (begun.codes - w[:, None, : head_layers(8)]).flatten(1, 2)
            first = torch.cat([apart, torch.zeros_like(begun.tail)], 1)
            wanted = first.square().mean((1, 2))
            torch.testing.assert_close(found.inversion.losses["prior"][0], wanted, **LOSS_ROUNDING)
        return whole.square().mean((1, 2))

    free, near = distances(0.0), distances(100.0)
    assert (near < 0.7 * free).all()
    assert (distances(100.0, free_tail=False) < distances(0.0, free_tail=False)).all()


def test_more_codes_come_closer_than_one(generator: Generator) -> None:
    target = images()

    def found(codes: int) -> Tensor:
        options = MultiCodeOptions(codes=codes, resolution=16, steps=25, lr=0.1)
        result = multi_code(generator, target, options=options)
        assert result.inversion.latents.shape == (2, LAYERS, DIM)
        with torch.no_grad():
            return psnr(result.composition.image(generator), target).mean()

    assert found(6) > found(1) + 0.5


def test_a_tail_may_stay_as_it_is(generator: Generator) -> None:
    free, fixed = (multi_code(generator, images(), options=replace(BRIEF, free_tail=tail)) for tail in (True, False))
    assert not torch.equal(free.composition.tail, begin(generator, 2, BRIEF).tail)
    assert torch.equal(fixed.composition.tail, begin(generator, 2, BRIEF).tail)
    assert len(fixed.inversion.free) == 2


@pytest.mark.parametrize("per_layer", [False, True])
def test_all_codes_move_alike_and_importances_stay(generator: Generator, per_layer: bool) -> None:
    given, step = random(generator, per_layer), torch.randn(LAYERS, DIM)
    moved = given.moved(step)
    assert torch.equal(moved.importances, given.importances)
    torch.testing.assert_close(moved.tail, given.tail + step[3:], **EXACT)
    own = step[:4] if per_layer else step[:4].mean(0, keepdim=True)
    torch.testing.assert_close(moved.codes, given.codes + own, **EXACT)


def test_a_killed_inversion_goes_on(generator: Generator, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "codes.safetensors", every=2)

    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    target = images()
    with pytest.raises(KeyboardInterrupt):
        multi_code(generator, target, options=BRIEF, on_step=stop, checkpoint=checkpoint)
    rest = multi_code(generator, target, options=BRIEF, checkpoint=checkpoint)
    whole = multi_code(generator, target, options=BRIEF)
    for mine, theirs in zip(rest.inversion.free, whole.inversion.free, strict=True):
        assert torch.equal(mine, theirs)


def test_where_codes_cannot_meet_is_told(generator: Generator) -> None:
    for resolution in (SIDE, 12):
        with pytest.raises(InvalidInput, match=rf"\[4, 8, 16, 32\] pixels; got {resolution}"):
            begin(generator, 1, replace(BRIEF, resolution=resolution))
    with pytest.raises(InvalidInput, match="at least 1 code"):
        MultiCodeOptions(codes=0)


def test_roles_are_what_goes_with_a_code(generator: Generator) -> None:
    given = random(generator)
    importances = given.importances.clone()
    importances[:, 1] = 0.0
    importances[:, 2] *= 0.1
    given = replace(given, importances=importances)
    found = roles(generator, given, important=0.0)
    torch.testing.assert_close(found.importance.sum(1), torch.ones(2), **LOSS_ROUNDING)
    assert (found.importance[:, 0] > found.importance[:, 2]).all()
    assert not found.importance[:, 1].any()
    assert not found.difference[:, 1].any()
    importances = importances.clone()
    importances[:, 0] = 0.0
    gone = (replace(given, importances=importances).image(generator) - given.image(generator)).abs().mean(1)
    torch.testing.assert_close(found.difference[:, 0], gone, **EXACT)
    assert float(found.area[:, 0].float().mean()) == pytest.approx(0.2, abs=PART)
    part = roles(generator, given, important=0.5)
    assert (part.difference[:, 0].mean() < gone.mean() * 2).all()
    assert not torch.equal(part.difference[:, 0], gone)


def test_overlap_of_areas_with_classes(generator: Generator) -> None:
    found = roles(generator, random(generator, batch=1))
    classes = torch.stack([found.area[0, 2], ~found.area[0, 2], torch.zeros(SIDE, SIDE, dtype=torch.bool)])[None]
    overlap = found.overlap(classes)
    assert overlap.shape == (1, 3, 3)
    assert overlap[0, 2].tolist() == [1.0, 0.0, 0.0]
    a, b = found.area[0, 0], found.area[0, 2]
    assert float(overlap[0, 0, 0]) == pytest.approx(float((a & b).sum() / (a | b).sum()))


def test_each_layer_is_tried_for_itself(generator: Generator) -> None:
    options = MultiCodeOptions(codes=2, steps=4, lr=0.1)
    found = by_layer(generator, images(), [4, 32], options)
    assert list(found) == [4, 32]
    alone = multi_code(generator, images(), options=replace(options, resolution=32))
    torch.testing.assert_close(found[32], psnr(alone.composition.image(generator), images()), **EXACT)
    assert not torch.equal(found[4], found[32])
