"""Directions that keep to a region: the same step of S for every image, also for those that it was not found on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from legato.editing.directions import Directions
from legato.editing.regional import regional_directions
from legato.editing.style_intervention import InterventionOptions
from legato.errors import InvalidEdit, InvalidInput
from legato.types import DirectionInfo, Edit
from tests.models.golden import golden_generator

SIDE = 16
OPTIONS = InterventionOptions(steps=20)


def region() -> Tensor:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 6:12, 4:12] = 1
    return mask


def known() -> Directions:
    generator = golden_generator()
    step = torch.randn(generator.num_layers, generator.config.w_dim)
    return Directions({"smile": step}, {"smile": DirectionInfo("smile", "", 0.0, 0.0)}, generator_digest="")


def test_less_changes_outside_also_in_images_that_were_not_seen() -> None:
    generator, directions, told = golden_generator(), known(), list[tuple[int, int]]()
    found, provenance = regional_directions(
        generator,
        directions,
        [Edit("smile", 0.5)],
        region(),
        images=8,
        options=OPTIONS,
        on_step=lambda *step: told.append(step),
    )
    assert found.names == ("smile_within",)
    assert found.info("smile_within").space == "s"
    assert told[-1] == (20, 20)
    assert provenance["images"] == 8
    fresh = generator.map(torch.randn(8, generator.config.z_dim))
    with torch.no_grad():
        before = generator(fresh)
        plain = directions.images(generator, fresh, [[Edit("smile", 0.5)]] * 8) - before
        kept = found.images(generator, fresh, [[Edit("smile_within", 0.5)]] * 8) - before
    outside = [float((change * (1 - region())).square().mean()) for change in (plain, kept)]
    assert 0 < outside[1] < outside[0]
    assert float((kept * region()).square().mean()) > 0


def test_what_cannot_be() -> None:
    generator = golden_generator()
    with pytest.raises(InvalidEdit, match="no direction is named 'nose'"):
        regional_directions(generator, known(), [Edit("nose", 1.0)], region(), options=OPTIONS)
    with pytest.raises(InvalidEdit, match="strength 0 of 'smile' moves nothing"):
        regional_directions(generator, known(), [Edit("smile", 0.0)], region(), options=OPTIONS)
    with pytest.raises(InvalidInput, match="the whole image"):
        regional_directions(generator, known(), [Edit("smile", 1.0)], torch.ones_like(region()), options=OPTIONS)
