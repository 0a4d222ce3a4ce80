"""An encoder made to read degraded images, by the generator's own population and least squares.

An encoder of clean images takes a gray picture for a gray head. What a degraded image tells of the clean one's code is
the conditional mean of E(x) given E(y), y = baseline(degrade(x)); here E(y) and the best linear estimate of what is
missing, E(x) - E(y), by ridge regression (Hoerl and Kennard 1970) over images x = G(map(z)), which are degraded as the
image at hand was. No picture is needed and nothing is trained. Of what is not seen, a color for instance, it gives what
goes with what is seen, in the mean; the paper, whose codes start at random, leaves that to chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.editing.population import sample_w
from legato.errors import InvalidInput
from legato.inversion.in_domain import Encode
from legato.models import Generator
from legato.restoration.degradation import Degradation

SAMPLES = 1024
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e4)  # of the mean eigenvalue of the samples' products
_BATCH = 32


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedEncoder:
    """baseline [B, 3, R, R] -> latents [B, L, D]."""

    encode: Encode
    seen: Tensor  # [L * D]: mean code of the degraded population
    shift: Tensor  # [L * D]: mean of what its codes lack
    weight: Tensor  # [L * D, L * D]
    unexplained: float  # part of the variance of what they lack, on samples left out one by one

    def __call__(self, baseline: Tensor) -> Tensor:
        codes = self.encode(baseline)
        lacking: Tensor = self.shift + (codes.flatten(1).float() - self.seen) @ self.weight
        return codes + lacking.view_as(codes)


@torch.no_grad()
def calibrate(
    generator: Generator,
    encode: Encode,
    degradation: Degradation,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[int], object] = lambda n: None,
) -> CalibratedEncoder:
    """The encoder for images of one degradation; its ridge is the best of `RIDGES` on samples left out one by one.

    A sample costs a pass of the generator and two of the encoder; `progress` is told of them as they are done. Raises
    InvalidInput for a mask that differs from image to image, and for less than 2 samples.
    """
    mask = getattr(degradation, "mask", None)
    if mask is not None and len(mask) != 1:
        raise InvalidInput(f"an encoder is calibrated for one mask [1, 1, R, R]; got {list(mask.shape)}")
    if samples < 2:
        raise InvalidInput(f"a calibration needs at least 2 samples; got {samples}")
    lacking, seen = [], []
    draw = torch.Generator().manual_seed(seed)
    for w in sample_w(generator, samples, seed=seed, batch=_BATCH):
        image = generator(w[:, None].expand(-1, generator.num_layers, -1)).clamp(-1.0, 1.0)
        degraded = degradation.apply(image)
        noise = getattr(degradation, "noise", 0.0) * torch.randn(degraded.shape, generator=draw).to(degraded)
        seen.append(encode(degradation.baseline(degraded + noise)).flatten(1))
        lacking.append(encode(image).flatten(1) - seen[-1])
        progress(len(w))
    return fitted(encode, torch.cat(seen).double(), torch.cat(lacking).double())


def fitted(encode: Encode, seen: Tensor, lacking: Tensor) -> CalibratedEncoder:
    """Ridge regression from `seen` to `lacking`, both [K, F] float64, in the space of the samples: mostly K < F."""
    mean_seen, shift = seen.mean(0), lacking.mean(0)
    x, y = seen - mean_seen, lacking - shift
    values, vectors = torch.linalg.eigh(x @ x.T)
    values, turned = values.clamp_min(0.0), vectors.T @ y
    best, chosen = torch.inf, 0.0
    for ridge in RIDGES:
        strength = ridge * float(values.mean())
        kept = values / (values + strength)
        # The residual of a sample that was left out follows from the fit with it (Allen 1974, PRESS).
        leverage = 1.0 / len(x) + vectors.square() @ kept
        residual = (y - vectors @ (kept[:, None] * turned)) / (1.0 - leverage)[:, None]
        left = float(residual.square().sum() / y.square().sum())
        if left < best:
            best, chosen = left, strength
    weight = (x.T @ vectors) @ (turned / (values + chosen)[:, None])
    return CalibratedEncoder(encode, mean_seen.float(), shift.float(), weight.float(), best)
