"""Held-out heads, the shipped model and two attribute networks: what the measurements of editing share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from legato.editing.directions import Directions, load_directions
from legato.editing.style_space import flatten_styles
from legato.inversion.w_plus import w_plus
from legato.models import Generator, load_encoder, load_generator
from legato.models.attributes import AttributeNetwork, load_attributes
from legato.models.encoder import ImageEncoder
from legato.synthetic.clips import clip_z
from legato.synthetic.renderer import Renderer
from legato.train.finish import FITTING_SEED, JUDGING_SEED

HEADS, FRAME, FPS = 12, 4, 12.5  # one frame of each of so many held-out clips
STEPS = 60  # of W+ from the encoder's code
POPULATION = 1024
_BATCH = 16


@dataclass(eq=False)
class Bench:
    """N heads inverted, and the networks."""

    generator: Generator
    encoder: ImageEncoder
    directions: Directions
    fitting: AttributeNetwork  # losses and labels may use this one
    judging: AttributeNetwork  # what is told is read by this one alone
    renderer: Renderer
    z: Tensor  # [N, 64]
    renders: Tensor  # [N, 3, R, R]
    codes: Tensor  # [N, L, D]
    before: Tensor  # [N, 3, R, R]: the reconstructions
    read_before: Tensor  # [N, A]

    @cached_property
    def population(self) -> tuple[Tensor, Tensor]:
        """Styles [P, C] of random z, and what the fitting network reads of their images [P, A]."""
        draw = torch.Generator().manual_seed(3)
        styles, scores = [], []
        with torch.no_grad():
            for _ in range(POPULATION // 64):
                found = self.generator.styles(
                    self.generator.map(torch.randn(64, self.generator.config.z_dim, generator=draw))
                )
                styles.append(flatten_styles(found))
                scores.append(self.fitting.standardized(self.generator.synthesize(found).clamp(-1, 1)))
        return torch.cat(styles), torch.cat(scores)


def open_bench(model: str, networks: Path, heads: int = HEADS) -> Bench:
    """Renders and inverts the heads. Raises ModelFileError where a file is missing."""
    generator, encoder = load_generator(model), load_encoder(model)
    generator.autocast_dtype = torch.bfloat16  # as the server runs on a CPU
    fitting, judging = (
        load_attributes(networks / f"attributes-{seed}.safetensors") for seed in (FITTING_SEED, JUDGING_SEED)
    )
    renderer = Renderer(generator.config.resolution)
    z = torch.cat([clip_z(identity, 0, FRAME + 1, "eval", fps=FPS)[-1:] for identity in range(heads)])
    renders = torch.cat([renderer(chunk).image for chunk in z.split(_BATCH)])
    with torch.no_grad():
        start = torch.cat([encoder(chunk) for chunk in renders.split(_BATCH)])
    codes = w_plus(generator, renders, start, layers=generator.num_layers, steps=STEPS).latents
    before = shown(generator, codes)
    directions = load_directions(model, generator_digest=generator.digest)
    return Bench(
        generator,
        encoder,
        directions,
        fitting,
        judging,
        renderer,
        z,
        renders,
        codes,
        before,
        read(judging, before),
    )


@torch.no_grad()
def shown(synthesize: Callable[[Tensor], Tensor], codes: Tensor) -> Tensor:
    """Images [N, 3, R, R] of codes [N, L, D], as they would be saved."""
    return torch.cat([synthesize(chunk).clamp(-1, 1) for chunk in codes.split(_BATCH)])


@torch.no_grad()
def read(network: AttributeNetwork, images: Tensor) -> Tensor:
    """[N, A], in standard deviations."""
    return torch.cat([network.standardized(chunk) for chunk in images.split(_BATCH)])


def median(values: Tensor) -> float:
    return round(float(values.median()), 4) if len(values) else float("nan")
