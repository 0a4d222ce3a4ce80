"""The multi-code prior (Gu et al. 2020, Image Processing Using Multi-Code GAN Prior): one image, several codes.

The generator is split after the block of one resolution. Each of N codes goes through the head alone; what the heads
give is added up, each channel weighted by the code's importance for it, and goes on through the tail (their eq. 4):

    x = tail(sum_n head(w_n) * a_n, t)

StyleGAN2 hands two things from block to block, features and a running image, so importances have a value for each
channel of both; and its tail is modulated too, by latents t of its own, which are free as well. The paper divides by N
on top of importances of 1/N, for a generator that normalizes each layer's input; here 1/N is all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from legato.errors import InvalidInput
from legato.inversion.check import check_images
from legato.inversion.code import Code, Synthesize
from legato.inversion.objective import Features, FreeTerm, Objective, Term, reconstruction
from legato.inversion.pauses import in_rows
from legato.inversion.solve import Inversion, Schedule, solve
from legato.inversion.state import Checkpoint
from legato.models import Features as Handed
from legato.models import Generator


@dataclass(frozen=True, slots=True)
class MultiCodeOptions:
    """How many codes, where they meet, and how they are searched for.

    The defaults are for pictures that the generator does not know. Median PSNR in dB of 6 of them, heads-128, 120 steps
    from the encoder's code (W 26.4, W+ 29.4, W+ with 1048 passes 31.1; benchmarks/results/multi_code.json). N codes
    cost N heads: passes of a generator, by multiply-adds. After 60 steps 16 codes were behind 8.

        codes   1       4       8       8, meeting at 64
        PSNR    29.7    30.8    30.9    32.5 dB
        passes  240     586     1048    1484

    On heads that the generator knows 8 codes gain .3 dB over one, W+ with as many passes 1.3.
    """

    codes: int = 10  # N; the paper's gain ends at about 20
    resolution: int = 32  # pixels of the block after which they meet, at least 4 and less than the image
    per_layer: bool = True  # a code is [head's layers, D]; False: one w for all of them
    free_tail: bool = True  # off: the tail keeps the latents that it starts with
    truncation: float = 0.7  # of the z that the codes start from
    steps: int = 300
    lr: float = 0.05
    importance_gain: float = 1.0  # of the importances' rate
    cooldown: float = 0.25
    patience: int = 0
    keep_best: bool = False
    perceptual_weight: float = 1.0
    prior_weight: float = 0.0  # of the codes' and the tail's squared distance from what they scatter around
    seed: int = 0

    def __post_init__(self) -> None:
        if self.codes < 1:
            raise InvalidInput(f"a multi-code inversion has at least 1 code; got {self.codes}")


def head_layers(resolution: int) -> int:
    """Layers of W+ that the blocks up to and with `resolution` read; the last one they share with the tail."""
    return 2 * int(math.log2(resolution)) - 2


@dataclass(frozen=True, slots=True, eq=False)
class Composition:
    """Codes, importances and the tail's latents: what stands for an image."""

    codes: Tensor  # [B, N, K, D]; K layers of the head, or 1 for all of them
    importances: Tensor  # [B, N, C + 3]: of the features' channels, then of the running image's
    tail: Tensor  # [B, L', D]: the last L' layers
    resolution: int

    def image(self, generator: Generator) -> Tensor:
        """[B, 3, R, R], differentiable."""

        def drawn(codes: Tensor, importances: Tensor, tail: Tensor) -> Tensor:
            return replace(self, codes=codes, importances=importances, tail=tail)._drawn(generator)

        return in_rows(drawn, self.codes, self.importances, self.tail)

    def _drawn(self, generator: Generator) -> Tensor:
        batch, count, _, dim = self.codes.shape
        layers, depth = generator.num_layers, head_layers(self.resolution)
        codes = self.codes.expand(-1, -1, depth, -1).flatten(0, 1)
        rest = generator.w_avg.expand(batch * count, layers - depth, dim)
        handed = generator.head(generator.styles(torch.cat([codes, rest], 1)), self.resolution)
        channels = handed.x.shape[1]
        x, rgb = (
            torch.einsum("bnchw,bnc->bchw", part.float().unflatten(0, (batch, count)), weight)
            for part, weight in zip(handed, self.importances.split([channels, 3], 2), strict=True)
        )
        x = x.to(handed.x.dtype).contiguous(memory_format=torch.channels_last)
        before = generator.w_avg.expand(batch, layers - self.tail.shape[1], dim)
        styles = generator.styles(torch.cat([before, self.tail], 1))
        return generator.tail(Handed(x, rgb), styles, self.resolution)

    def latents(self, layers: int) -> Tensor:
        """One code [B, L, D] for all: the codes' mean by importance, the tail's in its layers. Not the image's code."""
        share = self.importances.abs().mean(2)
        share = (share / share.sum(1, keepdim=True))[:, :, None, None]
        mean = (self.codes * share).sum(1).expand(-1, head_layers(self.resolution), -1)
        return torch.cat([mean[:, : layers - self.tail.shape[1]], self.tail], 1)

    def moved(self, step: Tensor) -> Composition:
        """Every code and the tail moved by a step [L, D] or [B, L, D], importances as they are: semantic
        manipulation."""
        depth, step = head_layers(self.resolution), step.to(self.codes).expand(len(self.codes), *step.shape[-2:])
        own = step[:, :depth] if self.codes.shape[2] > 1 else step[:, :depth].mean(1, keepdim=True)
        tail = self.tail + step[:, step.shape[1] - self.tail.shape[1] :]
        return replace(self, codes=self.codes + own[:, None], tail=tail)

    def rows(self, part: slice) -> Composition:
        """Those of some of the images."""
        return replace(
            self,
            codes=self.codes[part].clone(),
            importances=self.importances[part].clone(),
            tail=self.tail[part].clone(),
        )

    @staticmethod
    def joined(parts: Sequence[Composition]) -> Composition:
        """Those of several batches of images as one."""
        codes, importances, tails = zip(*((part.codes, part.importances, part.tail) for part in parts), strict=True)
        return replace(parts[0], codes=torch.cat(codes), importances=torch.cat(importances), tail=torch.cat(tails))


@dataclass(frozen=True, slots=True, eq=False)
class MultiCode(Code):
    """Codes and importances are free, and the tail unless it is `fixed`. It draws with its own generator's two parts,
    not with the `synthesize` of the solve."""

    generator: Generator
    initial: Composition
    center: Tensor  # [B, L, D]: latents that a prior pulls to
    fixed_tail: bool = False

    @property
    def start(self) -> tuple[Tensor, ...]:
        free = (self.initial.codes, self.initial.importances)
        return free if self.fixed_tail else (*free, self.initial.tail)

    def composition(self, *free: Tensor) -> Composition:
        """The free tensors with their names."""
        return Composition(free[0], free[1], self.initial.tail if self.fixed_tail else free[2], self.initial.resolution)

    def latents(self, *free: Tensor) -> Tensor:
        return self.composition(*free).latents(self.generator.num_layers)

    def distance(self, *free: Tensor) -> Tensor:
        """Mean squared distance [B] of the codes and the tail from the center: what a prior weighs."""
        codes, tail = free[0], self.composition(*free).tail
        center = self.center[:, None, : head_layers(self.initial.resolution)]
        if codes.shape[2] == 1:
            center = center.mean(2, keepdim=True)
        apart = [(codes - center).flatten(1, 2), tail - self.center[:, -tail.shape[1] :]]
        return torch.cat(apart, 1).square().mean((1, 2))

    def draw(self, synthesize: Synthesize, free: tuple[Tensor, ...], step: int | None) -> tuple[Tensor, Tensor]:
        composition = self.composition(*free)
        return composition.image(self.generator), composition.latents(self.generator.num_layers)


@dataclass(frozen=True, slots=True, eq=False)
class MultiCodeInversion:
    """What was found. The inversion's passes are those of the tail; the head goes N times for each."""

    composition: Composition
    inversion: Inversion


def begin(generator: Generator, batch: int, options: MultiCodeOptions, start: Tensor | None = None) -> Composition:
    """Codes of random z, importances 1/N, and the tail of `start` [B, L, D], or of w_avg.

    With `start`, the codes scatter around its layers, or around their mean where a code is one w, instead of around
    w_avg; one code alone begins there. Raises InvalidInput for a resolution that the generator cannot be split after.
    """
    config, count = generator.config, options.codes
    if options.resolution not in config.resolutions[:-1]:
        raise InvalidInput(
            f"codes meet after a block of one of {list(config.resolutions[:-1])} pixels; got {options.resolution}"
        )
    depth = head_layers(options.resolution)
    z = torch.randn(batch * count, config.z_dim, generator=torch.Generator().manual_seed(options.seed))
    with torch.no_grad():
        w = generator.map(z.to(generator.w_avg.device), options.truncation)[:, :1].unflatten(0, (batch, count))
    scatter = w - generator.w_avg if count > 1 or start is None else torch.zeros_like(w)
    if start is None:
        start = generator.w_avg.expand(batch, generator.num_layers, -1)
    center = start[:, None, :depth]
    w = scatter + (center if options.per_layer else center.mean(2, keepdim=True))
    importances = w.new_full((batch, count, config.channels(options.resolution) + 3), 1.0 / count)
    return Composition(w.contiguous(), importances, start[:, depth - 1 :].contiguous(), options.resolution)


def multi_code(
    generator: Generator,
    images: Tensor,  # [B, 3, R, R] in [-1, 1]
    *,
    options: MultiCodeOptions | None = None,
    start: Tensor | None = None,
    terms: tuple[Term, ...] = (),
    features: Features | None = None,
    on_step: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> MultiCodeInversion:
    """Several codes for each of `images`.

    Args:
        generator: with frozen weights, in evaluation mode.
        images: the targets.
        options: how many codes, and where they meet.
        start: latents [B, L, D] to scatter the codes around, for instance an encoder's.
        terms: what is compared, in place of pixels and pyramid or features: restoration compares degraded images.
        features: maps for a perceptual term.
        on_step: told the steps taken.
        checkpoint: file to go on from.
    """
    check_images(images)
    options = options or MultiCodeOptions()
    initial = begin(generator, len(images), options, start)
    center = generator.w_avg.expand(len(images), generator.num_layers, -1) if start is None else start
    code = MultiCode(generator, initial, center, not options.free_tail)
    gains = (1.0, options.importance_gain) if code.fixed_tail else (1.0, options.importance_gain, 1.0)
    schedule = Schedule(
        options.steps,
        options.lr,
        options.cooldown,
        gains=gains,
        patience=options.patience,
        keep_best=options.keep_best,
    )
    terms = terms or tuple(reconstruction(images, features, options.perceptual_weight))
    if checkpoint is not None:
        names = [(term.name, term.weight) for term in terms]
        checkpoint = checkpoint.about("multi_code", images, options, names)
    near = (FreeTerm("prior", options.prior_weight, code.distance),) if options.prior_weight else ()
    found = solve(code, Objective(terms, near), schedule, generator, on_step=on_step, checkpoint=checkpoint)
    return MultiCodeInversion(code.composition(*found.free), found)
