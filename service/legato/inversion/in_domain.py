"""In-domain inversion (Zhu et al. 2020, In-Domain GAN Inversion for Real Image Editing): codes that stay editable.

The domain-guided encoder gives the start; the optimization then minimizes (their eq. 5, with the sign of the code)

    |x - G(w)| + perceptual + domain_weight * mean((w - E(G(w)))^2)

where the gradient of the last term goes through E and G. It keeps w where the encoder would put its own picture, which
is where directions work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.errors import InvalidInput
from legato.inversion.check import check_images
from legato.inversion.code import FreeLatents, Synthesize
from legato.inversion.objective import Features, Objective, Term, perceptual, pixel, pyramid, squared
from legato.inversion.solve import Inversion, Schedule, solve
from legato.inversion.state import Checkpoint

Encode = Callable[[Tensor], Tensor]  # images [B, 3, R, R] -> latents [B, L, D], differentiable


@dataclass(frozen=True, slots=True)
class InDomainOptions:
    """Weights and rates.

    The released code (`released`) has pixel MSE 1, perceptual 5e-5 on the conv4_3 features of a VGG16 of 0..255, domain
    2, Adam of rate 0.01, 100 steps. Here pixels are L1 and, without features, a pyramid stands in for the perceptual
    term; together they are 18 times the MSE at the encoder's codes, hence a domain weight of ten times theirs. On 6
    frames of held-out clips, heads-128, 30 steps (encoder: 26.6 dB, mean((w - E(G(w)))^2) .0012):

        released      28.9 dB  .0005
        weight 20     28.9 dB  .0007
        weight 2      30.0 dB  .0035
        weight 0      30.1 dB  .0057
    """

    steps: int = 100
    lr: float = 0.01
    squared_pixels: bool = False  # MSE in place of L1
    pyramid_weight: float = 1.0  # where there are no features
    perceptual_weight: float = 5e-5  # where there are
    domain_weight: float = 20.0
    keep_best: bool = False

    @staticmethod
    def released() -> InDomainOptions:
        """As the authors' code has it, given the features that it takes; without features its pixel and domain terms
        alone."""
        return InDomainOptions(squared_pixels=True, pyramid_weight=0.0, domain_weight=2.0)

    def schedule(self) -> Schedule:
        """Adam at a constant rate."""
        return Schedule(self.steps, self.lr, keep_best=self.keep_best)

    def similarity(self, target: Tensor, features: Features | None) -> list[Term]:
        """The terms that compare pictures."""
        terms = [squared(target) if self.squared_pixels else pixel(target)]
        if features is not None:
            terms.append(perceptual(features, target, self.perceptual_weight))
        elif self.pyramid_weight:
            terms.append(pyramid(target, self.pyramid_weight))
        return terms


def domain(encode: Encode, weight: float) -> Term:
    """mean((w - E(G(w)))^2), the gradient through E and G (Zhu et al. 2020, eq. 5)."""
    return Term("domain", weight, lambda image, latents: (latents - encode(image)).square().mean((1, 2)))


def in_domain(
    synthesize: Synthesize,
    encode: Encode,
    images: Tensor,  # [B, 3, R, R] in [-1, 1]
    *,
    options: InDomainOptions | None = None,
    start: Tensor | None = None,
    features: Features | None = None,
    on_step: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Inversion:
    """Latents [B, L, D] in the encoder's domain whose images come close to `images`.

    Args:
        synthesize: the generator.
        encode: the domain-guided encoder; its parameters should not require gradients.
        images: the targets.
        options: weights and rates.
        start: latents [B, L, D] in place of E(x), for ablations.
        features: maps for the perceptual term.
        on_step: told the steps taken.
        checkpoint: file to go on from.
    """
    check_images(images)
    options = options or InDomainOptions()
    if start is None:
        with torch.no_grad():
            start = encode(images)
    terms = [*options.similarity(images, features), domain(encode, options.domain_weight)]
    if checkpoint is not None:
        checkpoint = checkpoint.about("in_domain", images, options, features is None)
    return solve(
        FreeLatents(start),
        Objective(tuple(terms if options.domain_weight else terms[:-1])),
        options.schedule(),
        synthesize,
        on_step=on_step,
        checkpoint=checkpoint,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Diffusion:
    """A semantic diffusion: the picture that was pasted together, its mask, and what the generator makes of it."""

    pasted: Tensor  # [B, 3, R, R]: the target's crop in the context
    mask: Tensor  # [B, 1, R, R]: 1 in the crop
    inversion: Inversion


def diffuse(
    synthesize: Synthesize,
    encode: Encode,
    target: Tensor,  # [B, 3, R, R] in [-1, 1]
    context: Tensor,  # [B, 3, R, R]
    mask: Tensor,  # [1 or B, 1, R, R]: 1 where the target is wanted
    *,
    options: InDomainOptions | None = None,
    features: Features | None = None,
    on_step: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Diffusion:
    """The crop of one image diffused into the context of another (Zhu et al. 2020, section 4.4).

    The start is E of the two pasted together; then only what lies in the crop is compared, over all pixels, masked to
    mid-gray, without a domain term: the context comes from the encoder's code alone. The picture that counts is G(w),
    not blended. Raises InvalidInput where the sizes do not fit together.
    """
    if target.shape != context.shape or mask.shape[1:] != (1, *target.shape[2:]) or len(mask) not in (1, len(target)):
        raise InvalidInput(
            f"target and context are [B, 3, R, R] alike and the mask [1 or B, 1, R, R]; got {list(target.shape)}, "
            f"{list(context.shape)} and {list(mask.shape)}"
        )
    check_images(target, "targets", "target")
    check_images(context, "contexts", "context")
    options = options or InDomainOptions()
    mask = mask.to(target.dtype).expand(len(target), -1, -1, -1)
    pasted = torch.lerp(context, target, mask)
    with torch.no_grad():
        start = encode(pasted)
    terms = [_masked(term, mask) for term in options.similarity(mask * target, features)]
    if checkpoint is not None:
        checkpoint = checkpoint.about("diffuse", pasted, mask, options, features is None)
    found = solve(
        FreeLatents(start),
        Objective(tuple(terms)),
        options.schedule(),
        synthesize,
        on_step=on_step,
        checkpoint=checkpoint,
    )
    return Diffusion(pasted, mask, found)


def _masked(term: Term, mask: Tensor) -> Term:
    return Term(term.name, term.weight, lambda image, latents: term.measure(mask * image, latents))


def square_mask(resolution: int, side: int, center: tuple[int, int]) -> Tensor:
    """A square crop as a mask [1, 1, R, R]: `side` pixels, its corner at center (x, y) - side // 2.

    Of faces at 256 pixels the paper takes 110 pixels around (125, 145). Raises InvalidInput for one that leaves the
    image.
    """
    left, top = (c - side // 2 for c in center)
    if side < 1 or min(left, top) < 0 or max(left, top) + side > resolution:
        raise InvalidInput(
            f"a crop lies within the image of {resolution} pixels; got {side} pixels around {center}. Move or shrink it"
        )
    mask = torch.zeros(1, 1, resolution, resolution)
    mask[:, :, top : top + side, left : left + side] = 1.0
    return mask


def interpolate(first: Tensor, last: Tensor, between: int = 5) -> Tensor:
    """Latents [between + 2, L, D] on the line from `first` [L, D] to `last` [L, D], both included."""
    part = torch.linspace(0.0, 1.0, between + 2, device=first.device).view(-1, 1, 1)
    return torch.lerp(first[None], last[None], part)


def mix_styles(content: Tensor, style: Tensor, layers: Sequence[int]) -> Tensor:
    """`content` [B, L, D] with the given layers of `style` [B, L, D]; the paper takes 10..13 of the 14 at 256 pixels.

    Raises InvalidInput for a layer that is not there.
    """
    count = content.shape[-2]
    if any(not 0 <= layer < count for layer in layers):
        raise InvalidInput(f"layers are 0..{count - 1}; got {list(layers)}")
    mixed = content.clone()
    mixed[..., list(layers), :] = style[..., list(layers), :]
    return mixed
