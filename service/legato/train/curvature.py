"""Measures a generator's curvature at the codes of real images, for the tracker's steps.

Two passes over images: the mean Gauss-Newton matrix from random probes (Hutchinson: for v of independent unit
Gaussians, E[(J^T v)(J^T v)^T] = J^T J), then how far corrections go along each of its coordinates, from a few steps on
images. Both at E(x), where the tracker's corrections begin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.inversion.code import Correction
from legato.inversion.objective import Objective, squared
from legato.inversion.solve import Schedule, solve
from legato.models.curvature import Curvature, CurvatureConfig
from legato.models.encoder import ImageEncoder
from legato.models.generator import Generator
from legato.train.training import chunks

SPREAD_SHARE = 0.2  # of the largest spread: none is smaller, so that no direction is given up


@dataclass(frozen=True, slots=True)
class CurvatureOptions:
    """How much is measured."""

    images: int = 3000  # for the matrix
    probes: int = 3  # of each image
    solved: int = 512  # images for the spread
    steps: int = 30  # on each of them
    lr: float = 0.04
    joint: int = 48  # eigenvectors of each layer that are turned across layers
    batch: int = 16
    seed: int = 0


def measure_curvature(
    generator: Generator,
    encoder: ImageEncoder,
    read: Callable[[Tensor], Tensor],  # [B] int64 -> images [B, 3, R, R]
    count: int,
    options: CurvatureOptions | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> Curvature:
    """The curvature of a frozen generator, from `count` images; `progress` hears of images as they are done."""
    options = options or CurvatureOptions()
    config = generator.config
    sizes = CurvatureConfig(generator.num_layers, config.w_dim, min(options.joint, config.w_dim))
    random = torch.Generator().manual_seed(options.seed)
    total = generator.num_layers * config.w_dim
    matrix, probed = torch.zeros(total, total), 0
    for index in _some(options.images, count, options.batch, random):
        images = read(index)
        latents = encoder(images).requires_grad_()
        with torch.enable_grad():
            drawn = generator(latents)
        for probe in range(options.probes):
            v = torch.randn(drawn.shape, generator=random).to(drawn.device) / drawn[0].numel() ** 0.5
            (found,) = torch.autograd.grad(drawn, latents, v, retain_graph=probe + 1 < options.probes)
            rows = found.flatten(1).cpu()
            matrix += rows.T @ rows
            probed += len(rows)
        progress(len(images))
    made = Curvature.of(matrix / probed, sizes).to(generator.w_avg.device)
    made.spread = _spread(generator, encoder, read, count, made, options, random, progress)
    return made


def _spread(
    generator: Generator,
    encoder: ImageEncoder,
    read: Callable[[Tensor], Tensor],
    count: int,
    curvature: Curvature,
    options: CurvatureOptions,
    random: torch.Generator,
    progress: Callable[[int], object],
) -> Tensor:
    """Root mean square of what some steps find, smoothed over coordinates of like sharpness: [L, D]."""
    squares, solved = torch.zeros_like(curvature.sharpness), 0
    for index in _some(options.solved, count, options.batch, random):
        images = read(index)
        with torch.no_grad():
            encoded = encoder(images)
        found = solve(
            Correction(encoded, torch.zeros_like(encoded), curvature),
            Objective((squared(images),)),
            Schedule(options.steps, options.lr, betas=(0.7, 0.99)),
            generator,
        )
        squares += found.free[0].square().sum(0)
        solved += len(images)
        progress(len(images))
    order = curvature.sharpness.flatten().argsort()
    ranked = (squares / solved).flatten()[order]
    width = min(101, 2 * (len(ranked) // 2) - 1)
    mean = torch.nn.functional.avg_pool1d(ranked[None, None], width, 1, width // 2, count_include_pad=False)[0, 0]
    spread = torch.empty_like(mean)
    spread[order] = mean.sqrt()
    return spread.clamp_min(SPREAD_SHARE * float(spread.max())).view_as(curvature.spread)


def _some(wanted: int, count: int, batch: int, random: torch.Generator) -> list[Tensor]:
    """Indices of up to `wanted` different images, drawn at random, in batches."""
    drawn = torch.randperm(count, generator=random)[:wanted]
    return [drawn[part].sort().values for part in chunks(len(drawn), batch)]
