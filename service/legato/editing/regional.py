"""Directions that keep to a region of the picture, the same for every image: Style Intervention (Liu et al. 2020) with
one set of coefficients for many random images.

The affines are linear, so that what a step of W+ does to the styles, d_z, is the same for every code; so is then
(1 - lam) d_z, and it is a direction of S: a stream is edited along it at no more cost than along any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from legato.editing.directions import Directions
from legato.editing.population import sample_w
from legato.editing.style_intervention import InterventionOptions, intervene, latent_step, total_steps
from legato.editing.style_space import split_styles
from legato.errors import InvalidEdit
from legato.models.generator import Generator
from legato.types import DirectionInfo, Edit

IMAGES = 16
TRUNCATION = 0.7


def regional_directions(
    generator: Generator,
    directions: Directions,
    edits: Sequence[Edit],  # the directions of W+, each at the strength for which its coefficients are found
    region: Tensor,  # [1, 1, R, R]: 1 where the image may change
    *,
    images: int = IMAGES,
    seed: int = 0,
    options: InterventionOptions | None = None,
    on_step: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Directions, dict[str, Any]]:
    """A direction NAME_within of S for each edit; and their provenance. on_step is told steps done and of all.

    Raises InvalidEdit for a name that is not known or not of W+ and for strength 0, InvalidInput for a region that
    `intervene` does not take.
    """
    options = replace(options or InterventionOptions(), shared=True)
    w = next(sample_w(generator, images, seed=seed))
    latents = generator.w_avg.lerp(w, TRUNCATION)[:, None].repeat(1, generator.num_layers, 1)
    vectors, infos, each = {}, {}, total_steps(generator, options)
    for number, edit in enumerate(edits):
        if edit.strength == 0.0:
            raise InvalidEdit(f"strength 0 of {edit.direction!r} moves nothing; give the one that is wanted")
        entangled = latent_step(generator, latents[:1], directions.vector(edit.direction), edit.strength)
        found = intervene(
            generator,
            latents,
            entangled,
            None,
            region,
            options=options,
            on_step=lambda done, before=number * each: on_step(before + done, len(edits) * each),  # type: ignore[misc]
        )
        kept = ((1 - found.coefficients) * entangled)[0]
        share = _outside(generator, latents, kept, region) / _outside(generator, latents, entangled[0], region)
        name = f"{edit.direction}_within"
        told = f"{edit.direction} inside a region, of {images} images; outside {share:.0%} of the plain edit's change"
        vectors[name] = kept / edit.strength
        infos[name] = DirectionInfo(name, told, 0.0, 0.0, space="s")
    provenance = {
        "method": "style-intervention",
        "edits": {edit.direction: edit.strength for edit in edits},
        "images": images,
        "steps": options.steps,
        "region_share": float(region.mean()),
    }
    return Directions(vectors, infos, generator_digest=generator.digest), provenance


@torch.no_grad()
def _outside(generator: Generator, latents: Tensor, step: Tensor, region: Tensor) -> float:
    """Root mean square change outside the region that a step [C] makes."""
    styles = generator.styles(latents)
    moved = [layer + part for layer, part in zip(styles, split_styles(generator, step[None]), strict=True)]
    change = (generator.synthesize(moved) - generator.synthesize(styles)) * (1 - region.to(latents))
    return float(change.square().mean().sqrt())
