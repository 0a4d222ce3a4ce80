"""Restoration by the multi-code prior: the image whose degradation is what is seen (Gu et al. 2020, eq. 8 to 10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.errors import InvalidInput
from legato.inversion import Checkpoint, Features, MultiCodeInversion, MultiCodeOptions, Term, multi_code
from legato.inversion.check import check_images
from legato.inversion.in_domain import Encode
from legato.inversion.objective import reconstruction
from legato.models import Generator
from legato.restoration.degradation import Degradation

_SPLITS = {"colorize": (16, False), "super_resolve": (8, True), "inpaint": (8, True), "denoise": (8, True)}


def suggested(degradation: Degradation) -> MultiCodeOptions:
    """Options for a degradation where nothing else is known: few codes that meet early.

    What was seen can be met in many ways, and the later codes meet, the less the generator has a say in which; the
    paper too inpaints at a shallow layer (4) and colorizes at a middle one (6 or 8). Tried on 2 or 3 rendered heads
    alone, 60 steps: the split made less than 0.3 dB of difference but in colorization (16 pixels, one w a code: 20 dB,
    gray 19 dB; up to 3 dB worse or better from head to head), where 20 codes were worse than 6.
    """
    resolution, per_layer = _SPLITS.get(degradation.name, (16, True))
    return MultiCodeOptions(codes=6, resolution=resolution, per_layer=per_layer)


@dataclass(frozen=True, slots=True, eq=False)
class Restoration:
    """The restored images and how they came about."""

    image: Tensor  # [B, 3, R, R] in [-1, 1]
    made: Tensor  # [B, 3, R, R]: by the generator, before what is known was put back
    baseline: Tensor  # [B, 3, R, R]: without any model
    found: MultiCodeInversion


def restore(
    generator: Generator,
    degraded: Tensor,  # [B, 3, r, r] in [-1, 1]
    degradation: Degradation,
    *,
    options: MultiCodeOptions | None = None,
    encode: Encode | None = None,
    features: Features | None = None,
    on_step: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Restoration:
    """Minimizes the distance of degradation(image) to `degraded` over the images of several codes.

    Args:
        generator: with frozen weights, in evaluation mode.
        degraded: what is seen. Of colorization and inpainting whatever is not seen may be in it: it is degraded again.
        degradation: what happened to it, and what is done with the result.
        options: of the multi-code inversion; `suggested` ones if None.
        encode: an encoder; the codes then scatter around its code of the baseline instead of around w_avg.
        features: maps for a perceptual term, of images of the degraded size.
        on_step: told the steps taken.
        checkpoint: file to go on from.

    Raises InvalidInput where the sizes of generator, image and degradation do not fit together.
    """
    options = options or suggested(degradation)
    side = generator.config.resolution
    with torch.no_grad():
        baseline = _fitting(degradation, degraded, side)
        seen = degraded if degraded.shape[-1] != side else degradation.apply(degraded)
        start = None if encode is None else encode(baseline)
    terms = tuple(
        Term(term.name, term.weight, _of_degraded(term, degradation))
        for term in reconstruction(seen, features, options.perceptual_weight)
    )
    if checkpoint is not None:
        mask = getattr(degradation, "mask", None)
        checkpoint = checkpoint.about(degradation.name, mask, degraded.shape, features is None)
    found = multi_code(
        generator, seen, options=options, start=start, terms=terms, on_step=on_step, checkpoint=checkpoint
    )
    with torch.no_grad():
        made = found.composition.image(generator)
        return Restoration(degradation.finish(made, seen), made, baseline, found)


def _of_degraded(term: Term, degradation: Degradation) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda image, latents: term.measure(degradation.apply(image), latents)


def _fitting(degradation: Degradation, degraded: Tensor, side: int) -> Tensor:
    """The baseline, of the generator's size. Raises InvalidInput."""
    check_images(degraded, "degraded images")
    mask = getattr(degradation, "mask", None)
    if mask is not None and (mask.shape[2:] != degraded.shape[2:] or len(mask) not in (1, len(degraded))):
        raise InvalidInput(f"a mask has the size of its images, {list(degraded.shape)}; got {list(mask.shape)}")
    baseline = degradation.baseline(degraded)
    if baseline.shape[2:] != (side, side):
        raise InvalidInput(
            f"{degradation.name} of an image of {list(degraded.shape[2:])} gives {list(baseline.shape[2:])}, and the "
            f"generator makes {side} x {side}. Crop or resize the image, or choose another factor"
        )
    return baseline
