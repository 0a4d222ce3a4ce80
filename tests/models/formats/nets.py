"""Small networks of our own to be written in every format, every value of them drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from legato.models import Discriminator, Generator, GeneratorConfig

CONFIG = GeneratorConfig(32, z_dim=12, w_dim=12, mapping_layers=3, channel_base=256, channel_max=16)


def random_generator(config: GeneratorConfig = CONFIG, seed: int = 1) -> Generator:
    generator = Generator(config)
    generator.load_state_dict(_drawn(generator.state_dict(), seed))
    return generator.requires_grad_(False).eval()


def random_discriminator(config: GeneratorConfig = CONFIG, seed: int = 2) -> Discriminator:
    discriminator = Discriminator(config)
    discriminator.load_state_dict(_drawn(discriminator.state_dict(), seed))
    return discriminator.requires_grad_(False).eval()


def _drawn(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, tensor in state.items():
        scale = 0.1 if name.endswith(("bias", "noise_strength", "w_avg")) else 1.0
        scale *= 100.0 if name.startswith("mapping.fc") else 1.0
        drawn[name] = scale * torch.randn(tensor.shape, generator=random)
    return drawn


def pictures(generator: Generator) -> Tensor:
    """Two images of fixed z, truncated, so that w_avg counts."""
    z = torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(3))
    image: Tensor = generator(generator.map(z, 0.7))
    return image


def scores(discriminator: Discriminator) -> Tensor:
    images = torch.randn(4, 3, *2 * [discriminator.resolution], generator=torch.Generator().manual_seed(4))
    score: Tensor = discriminator(images)
    return score
