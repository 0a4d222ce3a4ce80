"""The mapping network z -> w, fitted last, on the codes that the encoder gives the renders of z, or images.

The renderer knows the z of every image; the encoder knows its code. Regressing the mean of the code's layers on z
gives a mapping whose W is that of the encoder: no adversarial training of its own, and `Generator.map` draws the
heads that the renderer would.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from legato.models.encoder import Encoder
from legato.models.generator import Generator
from legato.models.layers import normalize_second_moment
from legato.synthetic.dataset import Heads
from legato.synthetic.factors import sample_z
from legato.train.training import chunks, set_rate

_BATCH = 256


@torch.no_grad()
def encode_all(encoder: Encoder, heads: Heads, batch: int = 32) -> Tensor:
    """Codes [N, L, D] of all images, on the CPU; the encoder runs where it is."""
    device = encoder.w_avg.device
    return torch.cat([encoder(heads.batch(index, device)[0]).cpu() for index in chunks(len(heads), batch)])


def fit_mapping(
    generator: Generator,
    encoder: Encoder,
    heads: Heads,
    *,
    steps: int = 8000,
    rate: float = 4e-2,
    seed: int = 0,
    codes: Tensor | None = None,
) -> float:
    """Fits generator.mapping in place and sets both networks' w_avg. Returns the share of w's variance left on the last
    512 images, which are kept out of the fit."""
    torch.manual_seed(seed)
    z = sample_z([int(s) for s in heads.seeds], "train")
    codes = encode_all(encoder, heads) if codes is None else codes
    w = codes.mean(1)
    kept = len(w) - 512
    mean, deviation = w[:kept].mean(0), w[:kept].std()

    def drawn() -> tuple[Tensor, Tensor]:
        index = torch.randint(kept, (_BATCH,))
        return z[index], w[index]

    mapping = generator.mapping
    _descend(generator, drawn, deviation, steps, rate)
    center(generator, encoder, mean)
    with torch.no_grad():
        return float((mapping(z[kept:]) - w[kept:]).square().mean() / w[kept:].var(0).mean())


def fit_normal(
    generator: Generator,
    encoder: Encoder,
    heads: Heads,
    *,
    steps: int = 4000,
    rate: float = 4e-2,
    seed: int = 0,
    codes: Tensor | None = None,
) -> float:
    """As fit_mapping, for images of which no factors are known: W gets the mean and covariance of the images' codes.

    z, normalized, stands for the first principal components of the codes. Returns the share of w's variance left on
    z that were not fitted on, which leaves out what lies in the components that z is too short for.
    """
    torch.manual_seed(seed)
    codes = encode_all(encoder, heads) if codes is None else codes
    w = codes.mean(1)
    mean = w.mean(0)
    size = min(generator.config.z_dim, len(w) - 1, w.shape[1])
    _, deviations, axes = torch.linalg.svd(w - mean, full_matrices=False)
    spread = axes[:size] * deviations[:size, None] / math.sqrt(len(w) - 1)  # [size, D]
    scale = w.std()

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        z = torch.randn(count, generator.config.z_dim)
        return z, mean + normalize_second_moment(z)[:, :size] @ spread

    _descend(generator, lambda: drawn(_BATCH), scale, steps, rate)
    center(generator, encoder, mean)
    with torch.no_grad():
        z, wanted = drawn(4 * _BATCH)
        return float((generator.mapping(z) - wanted).square().mean() / w.var(0).mean())


def _descend(
    generator: Generator, drawn: Callable[[], tuple[Tensor, Tensor]], scale: Tensor, steps: int, rate: float
) -> None:
    """Fits the mapping to pairs (z, w) that are drawn anew for each step; w's error counts in units of `scale`."""
    mapping = generator.mapping.requires_grad_(True).train()
    rate = rate / generator.config.mapping_lr_multiplier  # the layers divide it out again
    optimizer = torch.optim.Adam(mapping.parameters(), lr=rate, betas=(0.9, 0.99))
    for step in range(steps):
        set_rate(optimizer, rate * 0.5 * (1 + math.cos(math.pi * step / steps)))
        z, wanted = drawn()
        loss = ((mapping(z) - wanted) / scale).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    mapping.requires_grad_(False).eval()


@torch.no_grad()
def center(generator: Generator, encoder: Encoder, mean: Tensor) -> None:
    """Sets w_avg of both networks to the mean [D] of codes; what they compute stays."""
    generator.mapping.w_avg.copy_(mean)
    shift = mean - encoder.w_avg
    encoder.w_avg.add_(shift)
    encoder.shared.bias.sub_(shift)
