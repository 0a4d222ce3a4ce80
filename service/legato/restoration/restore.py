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
from legato.restoration.denoise import Denoise
from legato.restoration.super_resolve import SuperResolve

_STEPS, _UNCALIBRATED_STEPS = 60, 100


def suggested(degradation: Degradation, *, codes: int = 1, calibrated: bool = True) -> MultiCodeOptions:
    """Options for a degradation where nothing else is known.

    With a calibrated encoder: one code from its start, under a prior to it; four codes gained nothing in three tasks on
    6 heads. Median PSNR in dB, baseline (gray, bicubic, mean fill, 3 x 3 mean), restored, and a classic method that
    knows no heads (OpenCV's inpainting, non-local means), 12 held-out heads and 8 photographs, heads-128
    (benchmarks/results/multi_code.json). What the generator does not know it does not restore:

                 colorize  x4        x8        x16       square         strokes        80 % lost      noise of 25
        heads    20.8 23.7 27.6 30.2 23.7 25.4 20.2 22.3 22.5 26.7 25.0 23.2 35.6 30.7 17.3 30.6 27.5 27.5 30.2 29.1
        photos   21.4 24.2 30.5 31.5 25.4 25.8 21.2 20.9 21.4 24.2 20.7 23.9 32.4 30.1 18.4 29.2 30.2 28.8 28.3 30.7

    Without such an encoder, several codes from all over, of which little is to be hoped where much is not seen.
    """
    if not calibrated:
        return MultiCodeOptions(codes=max(codes, 6), resolution=8, steps=_UNCALIBRATED_STEPS)
    return MultiCodeOptions(codes, resolution=8, truncation=0.2, steps=_STEPS, prior_weight=_prior(degradation))


def _prior(degradation: Degradation) -> float:
    """The less is seen, the more the start is to be believed."""
    if isinstance(degradation, SuperResolve):
        return degradation.factor / 4
    if isinstance(degradation, Denoise):
        return 2.0 if degradation.mask is None else 0.3
    return 1.0


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
