"""Restoration on a small generator: what was seen is met, what is known is kept, sizes that do not fit are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from legato.errors import InvalidInput
from legato.inversion import Checkpoint, MultiCodeOptions
from legato.losses import l1, psnr
from legato.restoration import Colorize, Degradation, Denoise, Inpaint, SuperResolve, lost_pixels, restore, suggested
from tests.pipeline.model import SIDE, Model, small_model, stream, to_image
from tests.tolerances import EXACT, LOSS_ROUNDING

BRIEF = MultiCodeOptions(codes=3, resolution=16, per_layer=True, steps=12, lr=0.1)


@pytest.fixture(scope="module")
def model() -> Model:
    model = small_model()
    model.generator.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def truth(model: Model) -> Tensor:
    return torch.cat([to_image(frame) for frame in stream(model, 2)])


def center_lost() -> Tensor:
    mask = torch.ones(1, 1, SIDE, SIDE)
    mask[..., 20:44, 20:44] = 0
    return mask


OPERATORS: list[Degradation] = [
    Colorize(),
    SuperResolve(4),
    Inpaint(center_lost()),
    Denoise(lost_pixels(SIDE)),
    Denoise(),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_what_was_seen_is_met_more_and_more(model: Model, truth: Tensor, operator: Degradation) -> None:
    seen = operator.apply(truth)
    found = restore(model.generator, seen, operator, options=BRIEF)
    begun = restore(model.generator, seen, operator, options=MultiCodeOptions(3, 16, per_layer=True, steps=0))
    assert (l1(operator.apply(found.made), seen) < 0.8 * l1(operator.apply(begun.made), seen)).all()
    torch.testing.assert_close(found.baseline, operator.baseline(seen), **EXACT)
    assert found.image.shape == truth.shape
    assert float(found.image.abs().max()) <= 1.0
    first = found.found.inversion.losses["pixel"][0]
    torch.testing.assert_close(first, l1(operator.apply(begun.made), seen), **LOSS_ROUNDING)


def test_what_was_not_seen_has_no_influence_and_what_was_is_kept(model: Model, truth: Tensor) -> None:
    mask = center_lost()
    spoiled = torch.where(mask.bool(), truth, 0.9)
    clean, again = (restore(model.generator, x, Inpaint(mask), options=BRIEF) for x in (truth, spoiled))
    torch.testing.assert_close(clean.image, again.image, **EXACT)
    known = mask.bool().expand_as(truth)
    torch.testing.assert_close(clean.image[known], truth[known], **EXACT)


def test_an_encoder_gives_a_closer_start(model: Model, truth: Tensor) -> None:
    code = model.generator.w_avg + torch.randn(1, 10, 32, generator=torch.Generator().manual_seed(0))
    asked: list[Tensor] = []

    def encode(image: Tensor) -> Tensor:
        asked.append(image)
        return code.expand(len(image), -1, -1)

    operator = SuperResolve(2, consistent=False)
    with torch.no_grad():
        target = model.generator(code)
    found = restore(
        model.generator,
        operator.apply(target),
        operator,
        encode=encode,
        options=MultiCodeOptions(1, 4, per_layer=True, truncation=0.0, steps=0),
    )
    torch.testing.assert_close(asked[0], found.baseline, **EXACT)
    plain = restore(
        model.generator,
        operator.apply(target),
        operator,
        options=MultiCodeOptions(1, 4, per_layer=True, truncation=0.0, steps=0),
    )
    assert float(psnr(found.image, target)) > float(psnr(plain.image, target)) + 1.0


def test_a_killed_restoration_goes_on_and_that_of_another_mask_does_not(
    model: Model, truth: Tensor, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors", every=3)
    first = restore(model.generator, truth, Inpaint(center_lost()), options=BRIEF, checkpoint=checkpoint)
    told: list[int] = []
    again = restore(
        model.generator, truth, Inpaint(center_lost()), options=BRIEF, checkpoint=checkpoint, on_step=told.append
    )
    assert told == []
    torch.testing.assert_close(again.image, first.image, **EXACT)
    with pytest.raises(InvalidInput, match="another solve"):
        restore(model.generator, truth, Inpaint(1 - center_lost()), options=BRIEF, checkpoint=checkpoint)


def test_less_seen_is_believed_less_where_nothing_else_is_asked_for() -> None:
    weights = [suggested(SuperResolve(factor)).prior_weight for factor in (2, 4, 8, 16)]
    assert weights == sorted(weights)
    assert suggested(Denoise()).prior_weight > suggested(Denoise(lost_pixels(SIDE))).prior_weight > 0
    for operator in OPERATORS:
        assert suggested(operator).resolution < MultiCodeOptions().resolution
        assert suggested(operator, codes=3).codes == 3
        assert suggested(operator, calibrated=False).prior_weight == 0


def test_sizes_that_do_not_fit_are_told(model: Model, truth: Tensor) -> None:
    with pytest.raises(InvalidInput, match=r"super_resolve of an image of \[64, 64\] gives \[256, 256\]"):
        restore(model.generator, truth, SuperResolve(4))
    with pytest.raises(InvalidInput, match="a mask has the size"):
        restore(model.generator, truth, Inpaint(torch.ones(1, 1, 32, 32)))
    with pytest.raises(InvalidInput, match=r"pixels are finite.*image 0 of the degraded images"):
        restore(model.generator, truth * float("nan"), Colorize())
