"""What an inversion minimizes: named terms with weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from legato.inversion.pauses import in_rows
from legato.losses import l1, laplacian_pyramid_l1, masked_mse, mse

Features = Callable[[Tensor], Sequence[Tensor]]  # images [B, 3, R, R] in [-1, 1] -> maps [B, C, h, w], differentiable


@dataclass(frozen=True, slots=True)
class Term:
    """One named term: `measure(image [B, 3, R, R], latents [B, L, D]) -> [B]`, times its weight in the sum."""

    name: str
    weight: float
    measure: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class FreeTerm:
    """A term of the free tensors themselves: `measure(*free) -> [B]`, one value an image, times its weight."""

    name: str
    weight: float
    measure: Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Objective:
    """The weighted sum of its terms, per image."""

    terms: tuple[Term, ...]
    free_terms: tuple[FreeTerm, ...] = ()

    def __call__(
        self, image: Tensor, latents: Tensor, free: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(total [B], {name: unweighted term [B]}) of synthesized images [B, 3, R, R] and their latents [B, L, D]."""
        losses = {term.name: term.measure(image, latents) for term in self.terms}
        losses |= {term.name: term.measure(*free) for term in self.free_terms}
        weights = [(term.name, term.weight) for term in self.terms]
        weights += [(term.name, term.weight) for term in self.free_terms]
        total = sum((weight * losses[name] for name, weight in weights), start=image.new_zeros(image.shape[0]))
        return total, {name: loss.detach() for name, loss in losses.items()}


def pixel(target: Tensor, weight: float = 1.0) -> Term:
    """L1 to the target [B, 3, R, R]."""
    return Term("pixel", weight, lambda image, latents: in_rows(l1, image, target))


def squared(target: Tensor, weight: float = 1.0) -> Term:
    """Mean squared difference to the target [B, 3, R, R], the pixel term of the papers."""
    return Term("squared", weight, lambda image, latents: in_rows(mse, image, target))


def pyramid(target: Tensor, weight: float = 1.0) -> Term:
    """Laplacian-pyramid L1 to the target [B, 3, R, R]."""
    return Term("pyramid", weight, lambda image, latents: in_rows(laplacian_pyramid_l1, image, target))


def perceptual(features: Features, target: Tensor, weight: float = 1.0) -> Term:
    """Sum over the maps of the mean squared difference of features of image and target [B, 3, R, R].

    Johnson et al. 2016 (Perceptual Losses for Real-Time Style Transfer, eq. 2); with the four slices of VGG16 it is
    the perceptual term of Image2StyleGAN. The target's features are computed once.
    """
    wanted = [layer.detach() for layer in features(target)]

    def measure(image: Tensor, latents: Tensor) -> Tensor:
        found = [(a - b).square().flatten(1).mean(1) for a, b in zip(features(image), wanted, strict=True)]
        return sum(found[1:], start=found[0])

    return Term("perceptual", weight, measure)


def reconstruction(target: Tensor, features: Features | None = None, perceptual_weight: float = 1.0) -> list[Term]:
    """Pixel L1 and, as the perceptual term, squared differences of `features`; the pyramid where there are none."""
    if features is None:
        return [pixel(target), pyramid(target)]
    return [pixel(target), perceptual(features, target, perceptual_weight)]


def flow_consistency(warped: Tensor, visible: Tensor, weight: float) -> Term:
    """Squared difference to the last output warped into this frame [B, 3, R, R], where `visible` [B, 1, R, R] is 1."""
    return Term("flow", weight, lambda image, latents: masked_mse(image, warped, visible))


def prior(center: Tensor, weight: float) -> Term:
    """Mean squared distance of the latents to `center` [B, L, D].

    With E(x) as the center it keeps the code in the encoder's domain, where edits work: the domain term of Zhu et al.
    2020 (In-Domain GAN Inversion, section 3.2) without the second encoding.
    """
    return Term("prior", weight, lambda image, latents: (latents - center).square().mean((1, 2)))
