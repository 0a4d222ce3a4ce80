"""Style Intervention: the coefficients' meaning, what is kept outside a region, levels, and both attribute terms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from legato.editing.boundary import fit_boundary
from legato.editing.style_intervention import (
    Classifier,
    InterventionOptions,
    intervene,
    intervene_along,
    latent_step,
    normal_step,
    total_steps,
)
from legato.editing.style_space import flatten_styles, split_styles
from legato.errors import InvalidInput
from legato.models import Generator
from tests.models.golden import golden_generator, golden_z
from tests.tolerances import GENERATOR_ROUNDING

SIDE = 16


@pytest.fixture
def generator() -> Generator:
    return golden_generator()


def region() -> Tensor:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 6:12, 4:12] = 1
    return mask


def steps(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [2, 6, 10], d_z [2, C] of a direction in W+, and a d_n [1, C] on some channels."""
    latents = generator.map(golden_z())
    entangled = latent_step(generator, latents, torch.randn(6, 10), 0.5)
    normal = 0.5 * torch.randn(1, entangled.shape[1]) * (torch.rand(1, entangled.shape[1]) < 0.3)
    return latents, entangled, normal


def outside(generator: Generator, latents: Tensor, styles: list[Tensor]) -> Tensor:
    with torch.no_grad():
        change: Tensor = (generator.synthesize(styles) - generator(latents)) * (1 - region())
    return change.square().mean((1, 2, 3))


def plain(generator: Generator, latents: Tensor, step: Tensor) -> Tensor:
    flat = flatten_styles(generator.styles(latents)) + step
    return outside(generator, latents, split_styles(generator, flat))


@pytest.mark.parametrize(("shared", "coarse_to_fine"), [(False, True), (True, True), (False, False)])
def test_less_changes_outside_than_by_either_step(generator: Generator, shared: bool, coarse_to_fine: bool) -> None:
    latents, entangled, normal = steps(generator)
    options = InterventionOptions(
        steps=15, lr=0.05, shared=shared, cosine_weight=0.0, inside_weight=0.0, coarse_to_fine=coarse_to_fine
    )
    done: list[int] = []
    found = intervene(generator, latents, entangled, normal, region(), options=options, on_step=done.append)
    total = 45 if coarse_to_fine else 15  # three resolutions
    assert total_steps(generator, options) == total
    assert done == list(range(1, total + 1))
    assert found.coefficients.shape == (1 if shared else 2, entangled.shape[1])
    kept = outside(generator, latents, found.styles)
    assert (kept < 0.5 * plain(generator, latents, entangled)).all()
    assert found.losses["outside"].shape == (total, 2)
    assert (found.losses["outside"][-1] < found.losses["outside"][0]).all()


def test_coefficients_lie_between_the_steps(generator: Generator) -> None:
    latents, entangled, normal = steps(generator)
    for initial, step in ((0.0, entangled), (1.0, normal.expand_as(entangled))):
        options = InterventionOptions(steps=1, lr=0.0, initial=initial)
        found = intervene(generator, latents, entangled, normal, region(), options=options)
        moved = flatten_styles(found.styles) - flatten_styles(generator.styles(latents))
        torch.testing.assert_close(moved, step, **GENERATOR_ROUNDING)
        assert (found.coefficients == initial).all()


def test_cosine_term_pulls_to_the_normal(generator: Generator) -> None:
    latents, entangled, normal = steps(generator)
    cosines = []
    for weight in (0.0, 10.0):
        options = InterventionOptions(steps=10, lr=0.05, cosine_weight=weight, inside_weight=0.0)
        found = intervene(generator, latents, entangled, normal, region(), options=options)
        moved = flatten_styles(found.styles) - flatten_styles(generator.styles(latents))
        cosines.append(torch.cosine_similarity(moved, normal, dim=1))
    assert (cosines[1] > cosines[0] + 0.05).all()


def test_classifier_term_holds_the_response(generator: Generator) -> None:
    latents, entangled, normal = steps(generator)

    def score(image: Tensor) -> Tensor:
        return (image[:, 0] * region()[0, 0]).sum((1, 2)) / region().sum()

    with torch.no_grad():
        moved = generator(latents + 0.5)
        wanted = score(generator(latents)) + (score(moved) - score(generator(latents))).abs()
    shortfalls = []
    for weight in (0.0, 20.0):
        options = InterventionOptions(steps=20, lr=0.05, classifier_weight=weight, inside_weight=0.0)
        classifier = Classifier(score, wanted)
        found = intervene(generator, latents, entangled, normal, region(), classifier=classifier, options=options)
        with torch.no_grad():
            shortfalls.append((wanted - score(generator.synthesize(found.styles))).clamp(min=0))
    assert (shortfalls[1] <= shortfalls[0]).all()
    assert shortfalls[1].sum() < 0.5 * shortfalls[0].sum()


def test_rows_do_not_touch_each_other(generator: Generator) -> None:
    latents, entangled, normal = steps(generator)
    options = InterventionOptions(steps=3)
    together = intervene(generator, latents, entangled, normal, region(), options=options)
    alone = intervene(generator, latents[1:], entangled[1:], normal, region(), options=options)
    torch.testing.assert_close(together.coefficients[1:], alone.coefficients, **GENERATOR_ROUNDING)


def test_normal_goes_as_far_across_the_boundary_as_the_entangled_step(generator: Generator) -> None:
    styles = flatten_styles(generator.styles(generator.map(torch.randn(300, 12))))
    deviation = styles.std(0)
    boundary = fit_boundary(styles / deviation, styles[:, 3] > styles[:, 3].median(), sparsity=0.02)
    latents, entangled, _ = steps(generator)
    flat = flatten_styles(generator.styles(latents))
    found = normal_step(boundary, entangled, flat, deviation)
    across = [boundary.distance((flat + step) / deviation) for step in (found, entangled)]
    torch.testing.assert_close(across[0], across[1], **GENERATOR_ROUNDING)
    assert (found != 0).sum() < entangled.numel()


def test_without_normal_and_classifier_the_picture_inside_holds_the_edit(generator: Generator) -> None:
    latents, entangled, _ = steps(generator)
    before, inside = generator(latents), region()
    plain_edit = generator.synthesize(split_styles(generator, flatten_styles(generator.styles(latents)) + entangled))
    cosines = []
    for weight in (0.0, 0.3):
        options = InterventionOptions(steps=20, lr=0.05, inside_weight=weight)
        found = intervene(generator, latents, entangled, None, region(), options=options)
        assert "attribute" not in found.losses
        scale = 1 - found.coefficients  # d_n = 0: every channel is d_z's own, scaled
        moved = flatten_styles(found.styles) - flatten_styles(generator.styles(latents))
        torch.testing.assert_close(moved, scale * entangled, **GENERATOR_ROUNDING)
        change = ((generator.synthesize(found.styles) - before) * inside).flatten(1)
        cosines.append(torch.cosine_similarity(change, ((plain_edit - before) * inside).flatten(1)))
        assert (outside(generator, latents, found.styles) < 0.7 * plain(generator, latents, entangled)).all()
    assert (cosines[1] > cosines[0]).all()
    assert (cosines[1] > 0.8).all()


@pytest.mark.parametrize("shared", [False, True])
def test_a_clip_along_a_direction_is_edited_frame_by_frame(generator: Generator, shared: bool) -> None:
    latents = generator.map(torch.randn(3, 12))
    direction, done = torch.randn(6, 10), list[tuple[int, int]]()
    options = InterventionOptions(steps=4, lr=0.05, shared=shared)
    images = intervene_along(
        generator, latents, direction, 0.5, region(), options=options, batch=2, on_step=lambda *at: done.append(at)
    )
    solves = 1 if shared else 2
    assert done == [(step, 4 * solves) for step in range(1, 4 * solves + 1)]
    together = intervene(
        generator, latents, latent_step(generator, latents, direction, 0.5), None, region(), options=options
    )
    with torch.no_grad():
        torch.testing.assert_close(images, generator.synthesize(together.styles), **GENERATOR_ROUNDING)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.ones(1, 1, SIDE, SIDE), "the region is the whole image"),
        (torch.zeros(1, 1, SIDE, SIDE), "1 somewhere"),
        (2 * region(), "a mask of 0 to 1"),
        (torch.ones(1, 1, 8, 8), r"a mask \[1 or 2, 1, 16, 16\]; got \[1, 1, 8, 8\]"),
    ],
)
def test_a_region_that_cannot_be_is_refused(generator: Generator, mask: Tensor, said: str) -> None:
    latents, entangled, normal = steps(generator)
    with pytest.raises(InvalidInput, match=said):
        intervene(generator, latents, entangled, normal, mask)
    with pytest.raises(InvalidInput, match=said):
        intervene_along(generator, latents, torch.randn(6, 10), 1.0, mask)
