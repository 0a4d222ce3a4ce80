"""Coordinates of W+ in which a generator's image changes independently, and how far corrections go along each.

The mean Gauss-Newton matrix H = E[J^T J] / P of the generator, with J the Jacobian of its P values at encoder codes,
tells what a small move in W+ does to the image: mean squared change = dw^T H dw. In its eigenbasis the curvature is
close to diagonal, so Adam there is close to a Newton step: SOAP (Vyas et al. 2024, SOAP: Improving and Stabilizing
Shampoo using Adam) with a basis that is found once for a model instead of along the way. The tracker takes few steps a
frame, and these count.

The basis is in two parts, because a full one of L D x L D numbers would be larger than the generator: eigenvectors
within each layer, and of the `joint` strongest of all layers together, eigenvectors across layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class CurvatureConfig:
    """Sizes. Raises ValueError where they cannot be."""

    num_layers: int
    w_dim: int
    joint: int = 0  # eigenvectors of each layer that are turned across layers

    def __post_init__(self) -> None:
        if self.num_layers < 1 or self.w_dim < 1 or not 0 <= self.joint <= self.w_dim:
            raise ValueError(f"layers and w_dim are at least 1, joint is 0..w_dim; got {self}")


class Curvature(nn.Module):
    """An orthogonal map from coordinates [B, L, D] to moves in W+ [B, L, D], each coordinate times its spread.

    As built it is the identity: coordinates are W+ itself, scaled by `spread`.
    """

    within: Tensor  # [L, D, D]: columns are a layer's eigenvectors, by rising eigenvalue
    across: Tensor  # [L joint, L joint]: columns turn the last `joint` of all layers
    spread: Tensor  # [L, D]: root mean square of corrections along each coordinate
    sharpness: Tensor  # [L, D]: mean squared change of the image for a move of 1

    def __init__(self, config: CurvatureConfig, *, spread: float = 0.1) -> None:
        super().__init__()
        self.config = config
        self.digest = ""
        layers, dim = config.num_layers, config.w_dim
        self.register_buffer("within", torch.eye(dim).expand(layers, dim, dim).clone())
        self.register_buffer("across", torch.eye(layers * config.joint))
        self.register_buffer("spread", torch.full((layers, dim), spread))
        self.register_buffer("sharpness", torch.full((layers, dim), 1.0 / (layers * dim)))

    @property
    def measured(self) -> bool:
        """Whether it comes from a file, so that distances between places are those of a generator."""
        return bool(self.digest)

    @staticmethod
    def of(matrix: Tensor, config: CurvatureConfig) -> Curvature:
        """The basis of a mean Gauss-Newton matrix [L D, L D]; every spread is 1."""
        layers, dim, joint = config.num_layers, config.w_dim, config.joint
        made = Curvature(config, spread=1.0)
        if matrix.shape != (layers * dim, layers * dim):
            raise ValueError(f"the matrix is [{layers * dim}, {layers * dim}]; got {list(matrix.shape)}")
        blocks = matrix.view(layers, dim, layers, dim)
        made.within = torch.stack([torch.linalg.eigh(blocks[n, :, n])[1] for n in range(layers)])
        strong = made.within[:, :, dim - joint :]
        crossed = torch.einsum("adi,adbe,bej->aibj", strong, blocks, strong).reshape(layers * joint, layers * joint)
        made.across = torch.linalg.eigh(crossed)[1]
        basis = made.moves(torch.eye(layers * dim).view(-1, layers, dim)).flatten(1)
        made.sharpness = ((basis @ matrix) * basis).sum(1).clamp_min(0.0).view(layers, dim)
        return made

    def moves(self, coordinates: Tensor) -> Tensor:
        """[B, L, D] -> dw [B, L, D], differentiable."""
        return self._out(coordinates * self.spread)

    def coordinates(self, moves: Tensor) -> Tensor:
        """The inverse of `moves`: [B, L, D] -> [B, L, D]."""
        return self._into(moves) / self.spread

    def place(self, latents: Tensor) -> Tensor:
        """[B, L, D] -> points [B, L D]. The squared distance of two is about the mean squared difference of the images,
        as far as it is quadratic."""
        return (self._into(latents) * self.sharpness.sqrt()).flatten(1)

    def _out(self, rotated: Tensor) -> Tensor:
        joint = self.config.joint
        if joint:
            plain, strong = rotated[..., :-joint], rotated[..., -joint:]
            turned = (strong.flatten(1) @ self.across.T).view(strong.shape)
            rotated = torch.cat([plain, turned], -1)
        return torch.einsum("ble,lde->bld", rotated, self.within)

    def _into(self, moves: Tensor) -> Tensor:
        rotated, joint = torch.einsum("bld,lde->ble", moves, self.within), self.config.joint
        if not joint:
            return rotated
        plain, strong = rotated[..., :-joint], rotated[..., -joint:]
        return torch.cat([plain, (strong.flatten(1) @ self.across).view(strong.shape)], -1)
