"""What an inversion minimizes: named terms with weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from legato.losses import l1, laplacian_pyramid_l1, masked_l1


@dataclass(frozen=True, slots=True)
class Term:
    """One named term: `measure(image [B, 3, R, R], latents [B, L, D]) -> [B]`, times its weight in the sum."""

    name: str
    weight: float
    measure: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Objective:
    """The weighted sum of its terms, per image."""

    terms: tuple[Term, ...]

    def __call__(self, image: Tensor, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(total [B], {name: unweighted term [B]}) of synthesized images [B, 3, R, R] and their latents [B, L, D]."""
        losses = {term.name: term.measure(image, latents) for term in self.terms}
        total = sum((term.weight * losses[term.name] for term in self.terms), start=image.new_zeros(image.shape[0]))
        return total, {name: loss.detach() for name, loss in losses.items()}


def pixel(target: Tensor, weight: float = 1.0) -> Term:
    """L1 to the target [B, 3, R, R]."""
    return Term("pixel", weight, lambda image, latents: l1(image, target))


def pyramid(target: Tensor, weight: float = 1.0) -> Term:
    """Laplacian-pyramid L1 to the target [B, 3, R, R]."""
    return Term("pyramid", weight, lambda image, latents: laplacian_pyramid_l1(image, target))


def flow_consistency(warped: Tensor, visible: Tensor, weight: float) -> Term:
    """L1 to the last output warped into this frame [B, 3, R, R], where `visible` [B, 1, R, R] is 1."""
    return Term("flow", weight, lambda image, latents: masked_l1(image, warped, visible))


def prior(center: Tensor, weight: float) -> Term:
    """Mean squared distance of the latents to `center` [B, L, D].

    With E(x) as the center it keeps the code in the encoder's domain, where edits work: the domain term of Zhu et al.
    2020 (In-Domain GAN Inversion, section 3.2) without the second encoding.
    """
    return Term("prior", weight, lambda image, latents: (latents - center).square().mean((1, 2)))
