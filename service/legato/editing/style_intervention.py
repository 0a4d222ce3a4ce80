"""Style Intervention (Liu et al. 2020): an edit of S that keeps to its region, image by image.

Two steps of S lead to an attribute: d_z, what the styles do when the latent moves along the attribute's direction,
which is realistic and entangled; and d_n, the normal of a sparse linear boundary among styles, which is disentangled
and may leave what the generator can draw. Each channel gets a coefficient between them:

    d = (1 - lam) * d_z + lam * d_n
    minimize  |(1 - M) (G(s + d) - G(s))|  +  inside * |M (G(s + d) - G(s + d_z))|  +  attribute * A  +  norm * |lam|

with M the region that may change. |.| of an image is the sum over RGB of the root mean square over the mask's pixels,
so that the weights serve any resolution. The second term asks that the picture inside the region is that of the plain
edit; A is - cos(d, d_n), or how far a classifier's score falls short of what is wanted. The paper's body was not to be
had: the first, the third and the last term are those of its public re-implementation and a reader's notes; the second
is ours, and what holds the edit without labels or classifier (then d_n = 0: lam only scales the channels of d_z).
The re-implementation finds the coefficients block by block from coarse to fine, and those found stay; all at once, as
is the default here, keeps the outside better in fewer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from legato.editing.boundary import Boundary
from legato.editing.style_space import flatten_styles, split_styles
from legato.errors import InvalidInput
from legato.inversion.code import Code
from legato.inversion.objective import Objective, Term
from legato.inversion.solve import Schedule, solve
from legato.models.generator import Generator

_EPSILON = 1e-8  # under roots, as in the re-implementation


@dataclass(frozen=True, slots=True)
class InterventionOptions:
    """Weights and lengths. What they reach is in docs/methods.md and benchmarks/results/editing.json."""

    steps: int = 80  # with coarse_to_fine, of each resolution
    lr: float = 0.3
    initial: float = 0.5  # lam at the start
    inside_weight: float = 0.1  # more holds the edit nearer to the plain one, less keeps the outside nearer to nothing
    cosine_weight: float = 0.01
    classifier_weight: float = 0.1
    norm_weight: float = 1e-6
    coarse_to_fine: bool = False  # block by block in place of all channels at once
    shared: bool = False  # one set of coefficients for all images, instead of one each


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """The attribute term that a score of the image gives: relu(wanted - score)^2.

    With `wanted` the score of the plain edit, the intervention is compared at equal response.
    """

    score: Callable[[Tensor], Tensor]  # images [B, 3, R, R] -> [B], differentiable
    wanted: Tensor  # [B]

    def shortfall(self, image: Tensor) -> Tensor:
        """The term [B] of images."""
        return F.relu(self.wanted - self.score(image)).square()


@dataclass(frozen=True, slots=True, eq=False)
class Intervention:
    """The edit that was found."""

    coefficients: Tensor  # lam [B, C], or [1, C] where shared; C channels of S
    styles: list[Tensor]  # [B, C] for each layer, edited: for `Generator.synthesize`
    losses: dict[str, Tensor]  # per term, unweighted, before each step: [steps, B]


def latent_step(generator: Generator, latents: Tensor, direction: Tensor, strength: float) -> Tensor:
    """d_z [B, C]: the change of S when latents [B, L, D] move by strength * direction [L, D]."""
    with torch.no_grad():
        moved = generator.styles(latents + strength * direction.to(latents))
        return flatten_styles(moved) - flatten_styles(generator.styles(latents))


def normal_step(boundary: Boundary, entangled: Tensor, styles: Tensor, deviation: Tensor) -> Tensor:
    """d_n [B, C]: along the normal of a boundary, as far across it as d_z [B, C] goes from styles [B, C].

    The boundary is one among styles / deviation, each channel in standard deviations [C] of the population (flat
    `StyleStatistics.deviation`): channels differ in scale, and a penalty on their weights would
    favor some.
    """
    along = boundary.distance((styles + entangled) / deviation) - boundary.distance(styles / deviation)
    return along[:, None] * boundary.normal.to(styles) * deviation


@dataclass(frozen=True, slots=True, eq=False)
class _Level(Code):
    """The coefficients of some channels, those of one resolution or all, are free; the others stay."""

    known: Tensor  # [B or 1, C]
    columns: slice

    @property
    def start(self) -> tuple[Tensor, ...]:
        return (self.known[:, self.columns],)

    def latents(self, *free: Tensor) -> Tensor:
        (level,) = free
        return torch.cat([self.known[:, : self.columns.start], level, self.known[:, self.columns.stop :]], 1)


def intervene(
    generator: Generator,
    latents: Tensor,  # [B, L, D]
    entangled: Tensor,  # d_z [B or 1, C]
    normal: Tensor | None,  # d_n [B or 1, C]; None: 0, so that lam scales d_z channel by channel
    region: Tensor,  # M [B or 1, 1, R, R]: 1 where the image may change
    *,
    classifier: Classifier | None = None,
    options: InterventionOptions | None = None,
    on_step: Callable[[int], object] = lambda steps: None,
) -> Intervention:
    """Coefficients that keep what lies outside the region, and the edited styles.

    Without a classifier the attribute term is the cosine to d_n, without either there is none. on_step is told how
    many steps are done, of `total_steps`. Raises InvalidInput for a region of another size, one
    that is empty and one that leaves nothing outside.
    """
    options = options or InterventionOptions()
    region = _checked(region.to(latents), len(latents), generator.config.resolution)
    outside = 1 - region
    with torch.no_grad():
        base = generator.styles(latents)
        before = generator.synthesize(base)
    flat = flatten_styles(base)
    d_z = entangled.to(flat).expand_as(flat)
    d_n = torch.zeros_like(flat) if normal is None else normal.to(flat).expand_as(flat)
    with torch.no_grad():
        plain = generator.synthesize(split_styles(generator, flat + d_z))

    def change(lam: Tensor) -> Tensor:
        return torch.lerp(d_z, d_n, lam.expand_as(flat))

    def synthesize(lam: Tensor) -> Tensor:
        return generator.synthesize(split_styles(generator, flat + change(lam)))

    def tell(done: int, step: int) -> None:
        on_step(done + step)

    terms = [
        Term("outside", 1.0, lambda image, lam: _difference(image, before, outside)),
        Term("inside", options.inside_weight, lambda image, lam: _difference(image, plain, region)),
        Term("norm", options.norm_weight, lambda image, lam: _length(lam).expand(len(flat))),
    ]
    if classifier is not None:
        terms.append(Term("attribute", options.classifier_weight, lambda image, lam: classifier.shortfall(image)))
    elif normal is not None:
        cosine = partial(F.cosine_similarity, d_n, dim=1)
        terms.append(Term("attribute", options.cosine_weight, lambda image, lam: -cosine(change(lam))))
    rows = 1 if options.shared else len(flat)
    lam = torch.full((rows, flat.shape[1]), options.initial, dtype=flat.dtype, device=flat.device)
    traces: list[dict[str, Tensor]] = []
    levels = _columns(generator, base) if options.coarse_to_fine else [slice(0, flat.shape[1])]
    for level, columns in enumerate(levels):
        found = solve(
            _Level(lam, columns),
            Objective(tuple(terms)),
            Schedule(options.steps, options.lr, cooldown=0.25),
            synthesize,
            on_step=partial(tell, level * options.steps),
        )
        lam = found.latents
        traces.append(dict(found.losses))
    losses = {name: torch.cat([trace[name] for trace in traces]) for name in traces[0]}
    with torch.no_grad():
        return Intervention(lam, split_styles(generator, flat + change(lam)), losses)


def intervene_along(
    generator: Generator,
    latents: Tensor,  # [T, L, D]
    direction: Tensor,  # [L, D]
    strength: float,
    region: Tensor,  # [1 or T, 1, R, R]
    *,
    options: InterventionOptions | None = None,
    batch: int = 16,
    on_step: Callable[[int, int], object] = lambda done, total: None,
) -> Tensor:
    """Images [T, 3, R, R] of a clip, or of single images, edited along a direction inside a region alone.

    What a user with a mask and no labels asks for. With `options.shared` the frames share their coefficients and are
    one batch. on_step is told steps done and of all. Raises as `intervene`.
    """
    options = options or InterventionOptions()
    size = len(latents) if options.shared else batch
    region = _checked(region.to(latents), len(latents), generator.config.resolution).expand(len(latents), -1, -1, -1)
    each = total_steps(generator, options)
    chunks = list(zip(latents.split(size), region.split(size), strict=True))
    images = []
    for number, (codes, mask) in enumerate(chunks):
        step = latent_step(generator, codes, direction, strength)
        found = intervene(
            generator,
            codes,
            step,
            None,
            mask,
            options=options,
            on_step=lambda done, before=number * each: on_step(before + done, each * len(chunks)),  # type: ignore[misc]
        )
        with torch.no_grad():
            images.append(generator.synthesize(found.styles))
    return torch.cat(images)


def total_steps(generator: Generator, options: InterventionOptions) -> int:
    """Steps of one `intervene`."""
    return options.steps * (len(generator.synthesis.resolutions) if options.coarse_to_fine else 1)


def _checked(region: Tensor, count: int, resolution: int) -> Tensor:
    """The mask [1 or `count`, 1, R, R]. Raises InvalidInput."""
    if region.shape not in ((1, 1, resolution, resolution), (count, 1, resolution, resolution)):
        raise InvalidInput(
            f"a region is a mask [1 or {count}, 1, {resolution}, {resolution}]; got {list(region.shape)}"
        )
    if not (((region >= 0) & (region <= 1)).all() and (region.sum((1, 2, 3)) > 0).all()):
        raise InvalidInput("a region is a mask of 0 to 1 that is 1 somewhere; what may change is 1")
    if not ((1 - region).sum((1, 2, 3)) > 0).all():
        raise InvalidInput("the region is the whole image: nothing is left to keep. Give a smaller mask")
    return region


def _difference(image: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """Sum over RGB of the root mean square difference where a mask is 1: [B]."""
    squares = ((image - other) * where).square().sum((2, 3)) / where.sum((2, 3))
    return (squares + _EPSILON).sqrt().sum(1)


def _length(lam: Tensor) -> Tensor:
    return (lam.square().sum(1) + _EPSILON).sqrt()


def _columns(generator: Generator, styles: Sequence[Tensor]) -> list[slice]:
    """The channels of each resolution's layers in flat S, from coarse to fine."""
    ends = [0, *torch.tensor([layer.shape[1] for layer in styles]).cumsum(0).tolist()]
    spans = [generator.synthesis.span(r) for r in generator.synthesis.resolutions]
    return [slice(ends[span.start], ends[span.stop]) for span in spans]
