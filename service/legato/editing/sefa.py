"""SeFa (Shen and Zhou 2021, Closed-Form Factorization of Latent Semantics in GANs): directions from weights alone.

A style affine maps a change n of w to a change A n of the styles. The directions that change the styles most, eq. 4:
eigenvectors of A^T A with the largest eigenvalues, A the rows of all chosen layers, each normalized to unit length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from legato.editing.directions import Directions, layer_mask, unmeasured
from legato.editing.population import deviations_along, fix_signs
from legato.models.generator import Generator
from legato.models.layers import EqualLinear


@dataclass(frozen=True, slots=True, eq=False)
class Factorization:
    """What the weights of some layers say of W."""

    vectors: Tensor  # [K, D], unit length, the strongest first; the largest entry of each is positive
    values: Tensor  # [K]: sum of squares of what a unit step changes in the normalized affines
    layers: tuple[int, ...]  # of W+, whose affines were factorized and which an edit moves

    @property
    def provenance(self) -> dict[str, Any]:
        """For `save_directions`."""
        return {"method": "sefa", "layers": list(self.layers), "eigenvalues": [float(v) for v in self.values]}

    def directions(self, generator: Generator, *, prefix: str = "sefa") -> Directions:
        """Named PREFIX_0, PREFIX_1, ...; strength 1 is one standard deviation of the population's w along the vector.

        The published edits, w + d * n for d in [-3, 3], are the unit `vectors` themselves.
        """
        lengths = deviations_along(generator, self.vectors)
        names = [f"{prefix}_{k}" for k in range(len(self.vectors))]
        described = {
            name: f"eigenvector {k} of the style weights of layers {list(self.layers)}" for k, name in enumerate(names)
        }
        moved = dict(zip(names, lengths[:, None] * self.vectors, strict=True))
        return unmeasured(moved, described, generator, layers=self.layers)


def style_weights(generator: Generator, layers: Sequence[int] | None = None) -> Tensor:
    """Rows [sum of C_in, D] of the style affines of some layers of W+.

    As the released code for StyleGAN2: layer i means the i-th convolution's affine, the last layer that of the last
    ToRGB; the other ToRGBs, which share a layer with the next block's first convolution, are left out.
    """
    resolutions = generator.synthesis.resolutions
    affines: list[EqualLinear] = []
    for r in resolutions:
        affines += [layer.affine for layer in generator.synthesis.block(r).layers[:-1]]
    affines.append(generator.synthesis.block(resolutions[-1]).torgb.affine)
    chosen = layer_mask(generator.num_layers, layers)[:, 0].bool().tolist()
    return torch.cat([affine.weight.detach() for affine, taken in zip(affines, chosen, strict=True) if taken])


def sefa(generator: Generator, *, layers: Sequence[int] | None = None, count: int = 10) -> Factorization:
    """The `count` strongest directions of some layers of W+ (None: all). Raises ValueError where there are not so many.

    The equalized learning rate scales all rows of a layer alike, so it falls out with the normalization. The released
    code takes `eig` and does not sort; here the strongest come first.
    """
    if not 1 <= count <= generator.config.w_dim:
        raise ValueError(f"a generator with w of {generator.config.w_dim} has 1 to so many directions; got {count}")
    rows = torch.nn.functional.normalize(style_weights(generator, layers).double(), dim=1)
    values, vectors = torch.linalg.eigh(rows.T @ rows)  # ascending
    taken = tuple(range(generator.num_layers)) if layers is None else tuple(sorted(set(layers)))
    strongest = fix_signs(vectors.flip(1).T[:count])
    return Factorization(strongest.float(), values.flip(0)[:count].float(), taken)
