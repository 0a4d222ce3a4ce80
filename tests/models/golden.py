"""A small generator whose weights follow from numpy's PCG64 alone, and the image that belongs to it.

golden_16.npz was made by this code when the generator agreed with the public implementation's vectors
(test_generator.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from legato.models import Generator, GeneratorConfig

IMAGES = Path(__file__).with_name("golden_16.npz")
CONFIG = GeneratorConfig(16, z_dim=12, w_dim=10, mapping_layers=2, channel_base=128, channel_max=16, conv_clamp=256.0)


def golden_generator() -> Generator:
    """Every weight, bias, noise and the mean latent drawn in the order of names; none of them zero."""
    random = np.random.Generator(np.random.PCG64(7))
    generator = Generator(CONFIG)
    state = generator.state_dict()
    for name in sorted(state):
        scale = 0.1 if name.endswith(("bias", "noise_strength", "w_avg")) else 1.0
        if name.startswith("mapping.fc"):
            scale /= CONFIG.mapping_lr_multiplier  # stored that much larger, so that w depends on z
        state[name] = scale * torch.from_numpy(np.asarray(random.standard_normal(state[name].shape, np.float32)))
    generator.load_state_dict(state)
    return generator.requires_grad_(False).eval()


def golden_z() -> Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(8)).standard_normal((2, CONFIG.z_dim), np.float32))
