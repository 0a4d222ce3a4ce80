"""GANSpace (Harkonen et al. 2020, Discovering Interpretable GAN Controls, section 2.1): principal directions of W.

The mapping network's codes of some hundred thousand z are too many to hold: the PCA takes them batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from legato.editing.directions import Directions, layer_mask, unmeasured
from legato.editing.population import deviations_along, fix_signs, sample_w
from legato.models.generator import Generator


class IncrementalPCA:
    """Principal components of data that comes in batches (Ross et al. 2008, Incremental Learning for Robust Tracking).

    Exact where the data lies in a subspace of `components` dimensions; else what earlier batches had beyond them is
    forgotten. Float64.
    """

    def __init__(self, components: int) -> None:
        if components < 1:
            raise ValueError(f"at least 1 component is wanted; got {components}")
        self.count = components
        self.seen = 0
        self.mean = torch.zeros(0, dtype=torch.float64)  # [D]
        self.vectors = torch.zeros(0, 0, dtype=torch.float64)  # [K, D], unit, strongest first
        self.singular = torch.zeros(0, dtype=torch.float64)  # [K]

    @property
    def variances(self) -> Tensor:
        """[K], of the data along each component."""
        return self.singular.square() / max(self.seen - 1, 1)

    def add(self, batch: Tensor) -> None:
        """batch [N, D]; the first has at least `components` rows, all have one D. Raises ValueError."""
        if batch.dim() != 2 or (self.seen and batch.shape[1] != self.mean.shape[0]):
            raise ValueError(f"a batch is [N, D] with one D; got {list(batch.shape)} after D = {self.mean.shape[0]}")
        if min(batch.shape[0] + self.seen, batch.shape[1]) < self.count:
            raise ValueError(f"{self.count} components need so many rows and columns; got {list(batch.shape)}")
        x = batch.double()
        center = x.mean(0)
        rows = [x - center]
        if self.seen:
            n, m = self.seen, len(x)
            shift = (n * m / (n + m)) ** 0.5 * (self.mean - center)  # what two means apart add to the scatter
            rows = [self.singular[:, None] * self.vectors, *rows, shift[None]]
            center = (n * self.mean + m * center) / (n + m)
        _, singular, vectors = torch.linalg.svd(torch.cat(rows), full_matrices=False)
        self.seen, self.mean = self.seen + len(x), center
        self.singular, self.vectors = singular[: self.count], fix_signs(vectors[: self.count])


@dataclass(frozen=True, slots=True, eq=False)
class PrincipalDirections:
    """Components of W; strengths are in sigmas."""

    mean: Tensor  # [D]
    vectors: Tensor  # [K, D], unit length, strongest first
    deviations: Tensor  # [K]: of fresh samples along each, one sigma
    samples: int  # that the components were found on
    seed: int

    @property
    def provenance(self) -> dict[str, Any]:
        """For `save_directions`."""
        sigmas = [float(s) for s in self.deviations]
        return {"method": "ganspace", "samples": self.samples, "seed": self.seed, "sigmas": sigmas}

    def directions(
        self, generator: Generator, *, layers: Sequence[int] | None = None, prefix: str = "ganspace"
    ) -> Directions:
        """Named PREFIX_0, PREFIX_1, ...; strength 1 is one sigma, on the layers given (None: all)."""
        names = [f"{prefix}_{k}" for k in range(len(self.vectors))]
        described = {
            name: f"principal component {k} of W over {self.samples} samples, sigma {float(self.deviations[k]):.3g}"
            for k, name in enumerate(names)
        }
        moved = dict(zip(names, self.deviations[:, None] * self.vectors, strict=True))
        return unmeasured(moved, described, generator, layers=layers)

    def place(self, latents: Tensor, component: int, sigmas: float, *, layers: Sequence[int] | None = None) -> Tensor:
        """latents [B, L, D] whose chosen layers lie at `sigmas` along a component: their own coordinate is replaced.

        The "centered" edit of the released code, which ends at the same place whatever the code was.
        """
        vector, deviation = self.vectors[component].to(latents), float(self.deviations[component])
        along = (latents - self.mean.to(latents)) @ vector  # [B, L]
        mask = layer_mask(latents.shape[1], layers).to(latents)
        return latents + mask * (sigmas * deviation - along)[..., None] * vector


def ganspace(
    generator: Generator,
    *,
    components: int = 80,
    samples: int = 300_000,
    fresh: int = 5000,
    seed: int = 0,
    on_batch: Callable[[int], object] = lambda seen: None,
) -> PrincipalDirections:
    """Principal directions of `samples` mapped z without truncation; sigmas are those of `fresh` others.

    The defaults are the released code's; batches hold max(2000, 3 * components). on_batch is told how many samples
    were seen. Raises ValueError where samples or dimensions are fewer than components.
    """
    pca = IncrementalPCA(components)
    for batch in sample_w(generator, samples, seed=seed, batch=max(2000, 3 * components)):
        pca.add(batch.cpu())
        on_batch(pca.seen)
    vectors = pca.vectors.float()
    deviations = deviations_along(generator, vectors, count=fresh, seed=seed + 1).cpu()
    return PrincipalDirections(pca.mean.float(), vectors, deviations, pca.seen, seed)
