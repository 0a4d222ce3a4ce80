"""What a model of rendered heads is worth, in the figures of its card."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from legato.evaluation.frechet import frechet_distance
from legato.inversion.w_plus import w_plus
from legato.losses import PEAK, psnr
from legato.models.attributes import AttributeNetwork
from legato.models.encoder import ImageEncoder
from legato.models.generator import Generator
from legato.synthetic.dataset import Heads

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Mean PSNR in dB over held-out heads, and the pictures: input, encoder, + 100 W+ steps, w_avg + 500 steps."""

    encoder: float
    encoder_single_w: float
    encoder_100: float
    w_avg_500: float
    eyes_encoder: float  # over the eye pixels alone
    rows: tuple[Tensor, ...]


@torch.no_grad()
def _encode(encoder: ImageEncoder, images: Tensor) -> Tensor:
    return torch.cat([encoder(chunk) for chunk in images.split(_BATCH)])


def fidelity(
    generator: Generator,
    encoder: ImageEncoder,
    heads: Heads,
    *,
    count: int = 64,
    steps: int = 100,
    long_steps: int = 500,
    shown: int = 12,
) -> Fidelity:
    """Inverts the first `count` heads of a held-out set: by the encoder, by W+ steps after it, by steps from w_avg."""
    images, masks = heads.batch(torch.arange(count))
    codes = _encode(encoder, images)

    def synthesize(latents: Tensor) -> Tensor:
        image: Tensor = generator(latents)
        return image

    def show(latents: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([generator(chunk) for chunk in latents.split(_BATCH)])

    def optimized(start: Tensor | None, n: int) -> Tensor:
        found = []
        for i in range(0, count, _BATCH):
            begin = generator.w_avg if start is None else start[i : i + _BATCH]
            target = images[i : i + _BATCH]
            found.append(w_plus(synthesize, target, begin, layers=generator.num_layers, steps=n).latents)
        return torch.cat(found)

    rebuilt = show(codes)
    single = show(codes.mean(1, keepdim=True).expand_as(codes))
    near, far = show(optimized(codes, steps)), show(optimized(None, long_steps))
    eyes = torch.nn.functional.interpolate(masks[:, :1], size=images.shape[2:])
    error = ((rebuilt.clamp(-1, 1) - images).square() * eyes).sum() / (3 * eyes.sum())
    means = [float(psnr(found, images).mean()) for found in (rebuilt, single, near, far)]
    rows = tuple(x[:shown] for x in (images, rebuilt, near, far))
    return Fidelity(means[0], means[1], means[2], means[3], float(10 * torch.log10(PEAK**2 / error)), rows)


@torch.no_grad()
def sample(generator: Generator, count: int, truncation: float, seed: int = 0) -> Tensor:
    """Images [count, 3, R, R] of random z."""
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    return torch.cat([generator(generator.map(chunk, truncation)) for chunk in z.split(_BATCH)])


@torch.no_grad()
def sample_distance(
    generator: Generator, network: AttributeNetwork, heads: Heads, count: int = 2048
) -> tuple[float, float]:
    """Frechet distance in the attribute network's features: samples (psi 1) to renders, and renders to other
    renders."""

    def features(images: Tensor) -> Tensor:
        return network.features(images)

    def renders(first: int) -> Tensor:
        index = torch.arange(first, first + count)
        return torch.cat([features(heads.batch(chunk)[0]) for chunk in index.split(64)])

    drawn = torch.cat([features(chunk.clamp(-1, 1)) for chunk in sample(generator, count, 1.0, seed=7).split(64)])
    one, other = renders(0), renders(count)
    return frechet_distance(drawn, one), frechet_distance(one, other)
