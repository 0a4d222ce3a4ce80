"""The mapping network of StyleGAN2 (Karras et al. 2019, "A style-based generator architecture", section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from legato.models.layers import EqualLinear, normalize_second_moment


class Mapping(nn.Module):
    """z [B, Z] -> w [B, D]: normalized, then `depth` dense layers with a small learning rate."""

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, depth: int, lr_multiplier: float) -> None:
        super().__init__()
        self.depth = depth
        for i in range(depth):
            size = z_dim if i == 0 else w_dim
            self.add_module(f"fc{i}", EqualLinear(size, w_dim, lr_multiplier=lr_multiplier, activate=True))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        x = normalize_second_moment(z.float())
        for i in range(self.depth):
            x = self.get_submodule(f"fc{i}")(x)
        return x
