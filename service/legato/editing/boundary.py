"""Linear boundaries between codes with and without an attribute, and edits along their normals.

InterFaceGAN (Shen et al. 2020, Interpreting the Latent Space of GANs for Semantic Face Editing, section 3): codes are
scored by a predictor of the attribute, a linear classifier separates the highest from the lowest, and its unit normal
is the direction; what must not change with it is projected out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from legato.editing.directions import Directions, unmeasured
from legato.errors import InvalidInput
from legato.models.generator import Generator

Loss = Literal["logistic", "hinge"]
_STEPS = 3000
_SMALL = 1e-4  # of a unit vector: less of one that others span is the rounding of float32


@dataclass(frozen=True, slots=True, eq=False)
class Boundary:
    """The hyperplane normal . x + offset = 0 among codes of one shape; the attribute lies on the positive side."""

    normal: Tensor  # [*S], unit length over all of it; S is [D] for W, [L, D] for W+, [C] for styles
    offset: float
    deviation: float  # of the distances of the codes that it was fitted on: one sigma along the normal
    accuracy: float  # on the codes held back from the fit, 0..1
    samples: int  # fitted on

    @property
    def provenance(self) -> dict[str, Any]:
        """For `save_directions`."""
        return {"method": "boundary", "samples": self.samples, "accuracy": self.accuracy, "sigma": self.deviation}

    def distance(self, codes: Tensor) -> Tensor:
        """Signed distance [N] of codes [N, *S] from the hyperplane."""
        return codes.flatten(1) @ self.normal.flatten().to(codes) + self.offset

    def place(self, codes: Tensor, distance: float) -> Tensor:
        """codes [N, *S] moved along the normal to a signed distance from the hyperplane: x + (d - distance(x)) n.

        The paper's edits of Z and W, where strengths count from the boundary and not from the code.
        """
        return codes + (distance - self.distance(codes)).view(-1, *[1] * self.normal.dim()) * self.normal.to(codes)

    def directions(self, name: str, generator: Generator, *, layers: Sequence[int] | None = None) -> Directions:
        """One direction of W or W+; strength 1 is one sigma of the fitted codes along the normal."""
        text = f"normal of a linear boundary of {self.samples} codes, held-out accuracy {self.accuracy:.3f}"
        return unmeasured({name: self.deviation * self.normal}, {name: text}, generator, layers=layers)


def extremes(scores: Tensor, ratio: float = 0.02) -> tuple[Tensor, Tensor]:
    """(indices, labels) of the codes with the lowest and the highest scores [N]: a fraction `ratio` of them a side.

    labels are 1 for high, 0 for low, as [M] bool. The released code's default ratio. Raises ValueError for a ratio
    outside (0, .5], or one that leaves nobody.
    """
    count = int(len(scores) * ratio)
    if not 0 < ratio <= 0.5 or count < 1:
        raise ValueError(f"a ratio in (0, 0.5] that picks at least 1 of {len(scores)} scores is wanted; got {ratio}")
    order = scores.argsort()
    index = torch.cat([order[-count:], order[:count]])
    return index, torch.arange(2 * count, device=scores.device) < count


def fit_boundary(
    codes: Tensor,  # [N, *S]
    labels: Tensor,  # [N] bool
    *,
    loss: Loss = "hinge",
    ridge: float = 1e-3,
    sparsity: float = 0.0,
    held_back: float = 0.3,
    seed: int = 0,
) -> Boundary:
    """The boundary that separates labeled codes best.

    Minimizes mean(loss) + ridge/2 |w|^2 + sparsity |w|_1 over w and an offset, on codes divided by their common
    deviation: "hinge" is the linear support vector machine with squared hinge, "logistic" the regression. sparsity
    > 0 leaves out coordinates that tell little (the probable form of d_n in Liu et al. 2020, Style Intervention).
    Accelerated proximal gradient (Beck and Teboulle 2009, FISTA) with restarts; float64.

    A fraction `held_back` of the codes is not fitted on and gives the accuracy. Raises InvalidInput where one of the
    two labels is missing among the fitted, or sparsity leaves nothing.
    """
    if codes.dim() < 2 or labels.shape != codes.shape[:1] or not 0 <= held_back < 1:
        raise ValueError(f"codes [N, *S], labels [N]; got {list(codes.shape)}, {list(labels.shape)}, {held_back}")
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed)).to(codes.device)
    fitted = order[round(held_back * len(codes)) :]
    held = order[: len(codes) - len(fitted)]
    sign = labels.to(torch.float64) * 2 - 1
    if sign[fitted].min() == sign[fitted].max():
        raise InvalidInput("a boundary separates two kinds of codes; all labels are alike. Give codes of both kinds")
    flat = codes.flatten(1).double()
    scale = flat[fitted].std(0).square().mean().sqrt()
    center = flat[fitted].mean(0)
    weight, offset = _fit((flat[fitted] - center) / scale, sign[fitted], loss, ridge, sparsity)
    length = weight.norm()
    if length == 0:
        raise InvalidInput(f"sparsity {sparsity} leaves no coordinate of the boundary; take a smaller one")
    normal = weight / length
    shift = float(offset * scale / length - center @ normal)
    distance = flat @ normal + shift
    judged = held if len(held) else fitted
    right = ((distance[judged] > 0) == (sign[judged] > 0)).double().mean()
    return Boundary(
        normal.view(codes.shape[1:]).to(codes.dtype), shift, float(distance[fitted].std()), float(right), len(fitted)
    )


def project(primal: Tensor, conditions: Sequence[Tensor]) -> Tensor:
    """The unit normal [*S] that moves along `primal` and along none of `conditions`, each [*S].

    One condition: n1 - (n1 . n2) n2 (section 3.2, eq. 8). More: n1 - C^T a with (C C^T) a = C n1, which is what is
    orthogonal to all of them whatever their angles. Raises InvalidInput where the conditions leave nothing of it.
    """
    n = F.normalize(primal.flatten().double(), dim=0)
    if conditions:
        c = torch.stack([F.normalize(condition.flatten().double(), dim=0) for condition in conditions])
        n = n - c.T @ torch.linalg.lstsq(c.T, n[:, None], rcond=_SMALL, driver="gelsd").solution[:, 0]
    if n.norm() < _SMALL:
        raise InvalidInput("the direction lies among its conditions: nothing is left of it. Drop a condition")
    return F.normalize(n, dim=0).view(primal.shape).to(primal.dtype)


def _fit(x: Tensor, sign: Tensor, loss: Loss, ridge: float, sparsity: float) -> tuple[Tensor, Tensor]:
    """Weight [D] and offset [] on x [N, D]; the offset is column D of the solution and has no penalty."""
    x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    free = x.new_zeros(x.shape[1])
    shrink = x.new_full((x.shape[1],), sparsity)
    decay = x.new_full((x.shape[1],), ridge)
    shrink[-1] = decay[-1] = 0.0
    curvature = torch.linalg.matrix_norm(x, 2).square() / len(x) * (2.0 if loss == "hinge" else 0.25) + ridge
    ahead, momentum = free, 1.0
    for _ in range(_STEPS):
        margin = sign * (x @ ahead)
        slope = -2 * (1 - margin).clamp(min=0) if loss == "hinge" else -torch.sigmoid(-margin)
        moved = ahead - (x.T @ (sign * slope) / len(x) + decay * ahead) / curvature
        moved = moved.sign() * (moved.abs() - shrink / curvature).clamp(min=0)
        step = moved - free
        if (ahead - moved) @ step > 0:  # the momentum points uphill: O'Donoghue and Candes 2015
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        free, ahead, momentum = moved, moved + (momentum - 1) / following * step, following
        if step.norm() <= 1e-9 * (1 + free.norm()):
            break
    return free[:-1], free[-1]
