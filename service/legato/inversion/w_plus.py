"""Optimization in W and W+ of each image for itself (Abdal et al. 2019, Image2StyleGAN; Karras et al. 2020, projector).

In W+ every layer's w is free, in W one w for all layers. The start is an encoder's code or w_avg. The two options of
the StyleGAN2 projector (Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", appendix D) are
here for both: noise on the latents while the search is young, and free noise maps under a regularization that keeps
the picture out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from legato.errors import InvalidInput
from legato.inversion.check import check_images
from legato.inversion.code import Code, Synthesize
from legato.inversion.objective import Features, FreeTerm, Objective, reconstruction
from legato.inversion.solve import Inversion, Schedule, solve
from legato.inversion.state import Checkpoint
from legato.models import Generator

Space = Literal["w", "w_plus"]


class SynthesizeWithNoise(Protocol):
    """A generator that takes noise maps, as `Generator` does."""

    def __call__(self, latents: Tensor, noise: Sequence[Tensor], /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class LatentNoise:
    """Gaussian noise on the latents, `strength` * `deviation` at first, falling with the square of what is left of the
    first `part` of the steps (Karras et al. 2020, appendix D)."""

    deviation: float  # of w around w_avg: `latent_deviation`
    strength: float = 0.05
    part: float = 0.75
    seed: int = 0

    def scale(self, step: int, steps: int) -> float:
        """Standard deviation of the noise at a step."""
        return self.deviation * self.strength * max(0.0, 1.0 - step / steps / self.part) ** 2


@dataclass(frozen=True, slots=True, eq=False)
class FreeCode(Code):
    """w [B, L, D] or [B, 1, D] for all layers; beside it, where asked for, the noise maps of the generator."""

    initial: Tensor  # [B, L, D]; [B, 1, D]: one w for all layers
    layers: int
    steps: int = 0  # of the schedule, for the latent noise
    latent_noise: LatentNoise | None = None
    maps: tuple[Tensor, ...] = ()  # [B, 1, r, r], one a convolution

    @property
    def start(self) -> tuple[Tensor, ...]:
        return (self.initial, *self.maps)

    def latents(self, *free: Tensor) -> Tensor:
        return free[0].expand(-1, self.layers, -1)

    def draw(self, synthesize: Synthesize, free: tuple[Tensor, ...], step: int | None) -> tuple[Tensor, Tensor]:
        latents = self.latents(*free)
        if self.latent_noise is not None and step is not None:
            draw = torch.Generator().manual_seed(self.latent_noise.seed * 1_000_003 + step)
            drawn = torch.randn(free[0].shape, generator=draw).to(latents.device)
            latents = latents + drawn * self.latent_noise.scale(step, self.steps)
        if not self.maps:
            return synthesize(latents), latents
        with_noise: SynthesizeWithNoise = synthesize  # type: ignore[assignment]  # as asked of the caller
        return with_noise(latents, [normalized(noise) for noise in free[1:]]), latents


def w_plus(
    synthesize: Synthesize,
    images: Tensor,  # [B, 3, R, R] in [-1, 1]
    start: Tensor,  # [B, L, D], or [L, D] or [D] for all images alike
    *,
    layers: int,
    space: Space = "w_plus",
    steps: int = 100,
    lr: float = 0.05,
    schedule: Schedule | None = None,
    features: Features | None = None,
    perceptual_weight: float = 1.0,
    latent_noise: LatentNoise | None = None,
    noise_weight: float = 0.0,
    noise_seed: int = 0,
    on_step: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Inversion:
    """Latents [B, L, D] whose images come close to `images`.

    Args:
        synthesize: the generator; with `noise_weight` it is called as synthesize(latents, noise maps).
        images: the targets.
        start: an encoder's codes or w_avg. In W a start with layers of its own is averaged over them.
        layers: L of the generator.
        space: "w_plus", every layer's w free, or "w", one for all layers.
        steps: of Adam, the rate falling to 0 over the last quarter.
        lr: its rate.
        schedule: takes the place of steps and lr where more has to be said.
        features: maps for a perceptual term; without them the Laplacian pyramid is compared.
        perceptual_weight: of that term, beside 1 for pixels.
        latent_noise: noise on the latents while the search goes on.
        noise_weight: of the regularization of free noise maps (1e5 in the projector); 0 leaves the noise as it is.
            The maps found are `free[1:]` of the result: they are not part of the latents.
        noise_seed: of the maps' start.
        on_step: told the steps taken.
        checkpoint: file to go on from.

    Raises InvalidInput where images and start do not fit together, InvalidImage for pixels that are no numbers.
    """
    check_images(images)
    if start.dim() not in (1, 2, 3) or (start.dim() == 3 and len(start) != len(images)):
        raise InvalidInput(
            f"the start of images [B, 3, R, R] is [B, L, D], [L, D] or [D]; got {list(images.shape)} and "
            f"{list(start.shape)}"
        )
    initial = start.expand(images.shape[0], layers, start.shape[-1])
    schedule = schedule or Schedule(steps, lr, cooldown=0.25)
    maps: tuple[Tensor, ...] = ()
    if noise_weight:
        draw = torch.Generator().manual_seed(noise_seed)
        sides = [4] + [2 ** (3 + layer // 2) for layer in range(layers - 2)]
        maps = tuple(torch.randn(len(images), 1, r, r, generator=draw).to(images.device) for r in sides)
    code = FreeCode(
        initial.mean(1, keepdim=True) if space == "w" else initial, layers, schedule.steps, latent_noise, maps
    )
    quiet = (FreeTerm("noise", noise_weight, lambda w, *free: noise_correlation(free)),) if maps else ()
    objective = Objective(tuple(reconstruction(images, features, perceptual_weight)), quiet)
    if checkpoint is not None:
        about = (space, features is None, perceptual_weight, latent_noise, noise_weight)
        checkpoint = checkpoint.about("w_plus", images, *about)
    found = solve(code, objective, schedule, synthesize, on_step=on_step, checkpoint=checkpoint)
    return replace(found, latents=found.latents.contiguous())


def normalized(noise: Tensor) -> Tensor:
    """A map [B, 1, r, r] with mean 0 and variance 1, which the projector gives it after each step."""
    centered = noise - noise.mean((2, 3), keepdim=True)
    return centered * (centered.square().mean((2, 3), keepdim=True) + 1e-8).rsqrt()


def noise_correlation(maps: Sequence[Tensor]) -> Tensor:
    """Squared correlation of noise maps [B, 1, r, r] with themselves one pixel on, over all scales down to 8: [B].

    Karras et al. 2020, appendix D: what looks like a picture correlates, what looks like noise does not.
    """
    found = []
    for noise in maps:
        scale = normalized(noise)
        while True:
            found += [(scale * scale.roll(1, axis)).mean((1, 2, 3)).square() for axis in (2, 3)]
            if scale.shape[-1] <= 8:
                break
            scale = 2.0 * F.avg_pool2d(scale, 2)  # averages of four independent values have half their deviation
    return torch.stack(found).sum(0)


@torch.no_grad()
def latent_deviation(generator: Generator, samples: int = 4096, seed: int = 0) -> float:
    """Root mean squared distance of w from w_avg, as the projector scales its noise."""
    device = generator.w_avg.device
    z = torch.randn(samples, generator.config.z_dim, generator=torch.Generator().manual_seed(seed)).to(device)
    w = generator.map(z)[:, 0]
    return float((w - generator.w_avg).square().sum(1).mean().sqrt())
