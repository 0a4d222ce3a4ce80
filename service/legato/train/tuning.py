"""Pivotal tuning (Roich et al. 2021, "Pivotal Tuning for Latent-based Editing of Real Images").

The codes of some images, the pivots, stay as they were found; the generator's weights move until it gives the images at
them (section 3.2, eq. 2): mean squared error and a perceptual term, for which the L1 Laplacian pyramid stands in where
no network is given. Elsewhere the generator shall stay what it was (locality regularization, section 3.3, eq. 4): at
codes a fixed way from the pivots towards random ones, its images are held to those of the generator before.

What differs from the authors': batches of the images of a clip in place of one image, a rate that falls along a cosine,
and the way towards random codes, 30 in their W, is the mean distance of random codes from w_avg.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from legato.inversion.objective import Features
from legato.losses import laplacian_pyramid_l1, mse, perceptual_distance
from legato.models.delta import Delta, differences, save_delta, with_delta
from legato.models.files import Header
from legato.models.generator import Generator
from legato.synthetic.dataset import Heads
from legato.train.reconstruction import mean_psnr
from legato.train.training import Stateful, Training, Values, chunks, set_rate

BATCH = 16  # of figures
DISTANCE_SAMPLES = 1024
SHOWN = 12


@dataclass(frozen=True, slots=True)
class TuningConfig:
    """Options of a tuning."""

    steps: int = 400
    batch: int = 8
    rate: float = 1e-3  # of Adam; falls to nothing along a cosine
    pixel: float = 3.0  # weight of the mean squared error beside 1 of the perceptual term
    locality: float = 0.1  # weight of what holds other images; 0: nothing does
    layers: tuple[int, ...] | None = None  # of W+ whose convolutions move; None: all
    seed: int = 1
    checkpoint_seconds: float = 60


class Tuning(Training):
    """One tuning in a folder.

    Args:
        config: how.
        folder: of its checkpoint, log and pictures.
        generator: which; it stays as it is, what moves is a copy, `tuned`.
        pivots: [N, L, D], codes of the images.
        images: N of them.
        features: of the perceptual term; None: the Laplacian pyramid.
    """

    def __init__(
        self,
        config: TuningConfig,
        folder: Path,
        generator: Generator,
        pivots: Tensor,
        images: Heads,
        features: Features | None = None,
    ) -> None:
        device = generator.w_avg.device
        super().__init__(folder, config.steps * config.batch, config.seed, str(device), config.checkpoint_seconds)
        self.config, self.generator, self.pivots, self.data = config, generator, pivots, images
        self.features = features
        self.tuned = copy.deepcopy(generator).train().requires_grad_(False)
        moving = moving_parameters(self.tuned, config.layers)
        for parameter in moving.values():
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.Adam(moving.values(), betas=(0.9, 0.999), fused=True)
        self.distance = mean_distance(generator, config.seed)
        self.resume()

    def parts(self) -> Mapping[str, Stateful]:
        return {"tuned": self.tuned, "optimizer": self.optimizer}

    def pictures(self) -> Sequence[Tensor]:
        """Images; the generator's before; and as it is tuned."""
        rows = torch.linspace(0, len(self.data) - 1, min(SHOWN, len(self.data))).round().long()
        x, _ = self.data.batch(rows, self.device)
        return [x, self.generator(self.pivots[rows]), self.tuned(self.pivots[rows])]

    def figures(self) -> dict[str, float]:
        """Mean PSNR in dB at the pivots."""
        return {"psnr_db": self.quality(self.tuned)}

    def quality(self, generator: Generator) -> float:
        """Mean PSNR in dB of its images at the pivots."""
        total = 0.0
        with torch.no_grad():
            for rows in chunks(len(self.data), BATCH):
                total += mean_psnr(generator(self.pivots[rows]), self.data.batch(rows, self.device)[0]) * len(rows)
        return total / len(self.data)

    def refresh(self) -> None:
        """The images stay those that the pivots are of."""

    def step(self) -> tuple[int, Values]:
        config = self.config
        set_rate(self.optimizer, config.rate * 0.5 * (1 + math.cos(math.pi * self.steps / config.steps)))
        # A clip is gone through from end to end, then in another order.
        rows = self._order(self.steps * config.batch, config.batch)
        x, _ = self.data.batch(rows, self.device)
        loss = self._unlike(self.tuned(self.pivots[rows]), x)
        values = {"rebuilt": loss.detach()}
        if config.locality:
            codes = self._elsewhere(self.pivots[rows[:1]])
            with torch.no_grad():
                before = self.generator(codes)
            moved = self._unlike(self.tuned(codes), before)
            values["moved"] = moved.detach()
            loss = loss + config.locality * moved
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return config.batch, values

    def rounded(self) -> Generator:
        """The generator as it will be with the exported file."""
        found = differences(self.tuned, self.generator)
        return with_delta(self.generator, Delta(found, self.generator.digest, ""))

    def export(self, path: Path, recipe: Mapping[str, Any]) -> Header:
        """Writes the delta."""
        return save_delta(self.tuned, self.generator, path, recipe=recipe)

    def _unlike(self, image: Tensor, wanted: Tensor) -> Tensor:
        squares = mse(image, wanted).mean()
        if self.features is None:
            return self.config.pixel * squares + laplacian_pyramid_l1(image, wanted).mean()
        with torch.no_grad():
            target = self.features(wanted)
        return self.config.pixel * squares + perceptual_distance(self.features(image), target).mean()

    def _elsewhere(self, pivots: Tensor) -> Tensor:
        """Codes [B, L, D] at `distance` from the pivots towards random ones (eq. 3)."""
        z = torch.randn(len(pivots), self.generator.config.z_dim, generator=self.random)
        with torch.no_grad():
            way = self.generator.map(z.to(self.device)) - pivots
            there: Tensor = pivots + self.distance * way / way.norm(dim=2, keepdim=True)
        return there

    def _order(self, first: int, count: int) -> Tensor:
        """Numbers first .. first + count of an endless row of permutations of the images."""
        total, found = len(self.data), []
        for number in range(first, first + count):
            random = torch.Generator().manual_seed((self.seed << 32) + number // total)
            found.append(torch.randperm(total, generator=random)[number % total])
        return torch.stack(found)


def moving_parameters(generator: Generator, layers: Sequence[int] | None = None) -> dict[str, nn.Parameter]:
    """Weights, biases, affines of the convolutions and ToRGBs that read these layers of W+; with layer 0 the constant.

    Raises ValueError where there is no such layer.
    """
    count = generator.num_layers
    chosen = set(range(count)) if layers is None else set(layers)
    if not chosen or not chosen <= set(range(count)):
        raise ValueError(f"layers are among 0 ... {count - 1}, at least one; got {sorted(chosen)}")
    found: dict[str, nn.Parameter] = {}
    for k, resolution in enumerate(generator.synthesis.resolutions):
        parts = {"conv0": 2 * k - 1, "conv1": 2 * k, "torgb": 2 * k + 1}
        for name, parameter in generator.synthesis.block(resolution).named_parameters():
            layer = parts.get(name.partition(".")[0], 0)
            if layer in chosen and not name.endswith("noise_strength"):
                found[f"synthesis.b{resolution}.{name}"] = parameter
    return found


@torch.no_grad()
def mean_distance(generator: Generator, seed: int) -> float:
    """Of random w from w_avg."""
    z = torch.randn(DISTANCE_SAMPLES, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    w = generator.mapping(z.to(generator.w_avg.device))
    return float((w - generator.w_avg).norm(dim=1).mean())
