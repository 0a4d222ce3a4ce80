"""The non-saturating logistic GAN loss (Goodfellow et al. 2014, section 3) and R1 (Mescheder et al. 2018, eq. 9)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.models.discriminator import Discriminator
from legato.train.augment import AdaptiveAugment
from legato.train.training import Values

Augment = Callable[[Tensor], Tensor]
R1_INTERVAL = 16  # steps (Karras et al. 2020, section 3.1)
R1_BATCH = 8  # images: R1 in full precision costs as much as the rest of a step


def generator_loss(fake_scores: Tensor) -> Tensor:
    """Mean of -log sigmoid(D(fake)); scores [B, 1]."""
    return F.softplus(-fake_scores).mean()


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Mean of -log sigmoid(D(real)) - log(1 - sigmoid(D(fake))); scores [B, 1]."""
    return F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()


def unchanged(images: Tensor) -> Tensor:
    """Where nothing is augmented."""
    return images


def r1_penalty(discriminator: Discriminator, real: Tensor, augment: Augment = unchanged) -> Tensor:
    """Mean over real [B, 3, R, R] of |d D(augment(x)) / dx|^2, in full precision, differentiable in the weights."""
    x = real.detach().requires_grad_(True)
    score = discriminator(augment(x), full_precision=True).sum()
    (gradient,) = torch.autograd.grad(score, x, create_graph=True)
    penalty: Tensor = gradient.square().sum((1, 2, 3)).mean()
    return penalty


def fool(discriminator: Discriminator, image: Tensor, augment: Augment = unchanged) -> Tensor:
    """generator_loss of image [B, 3, R, R], with a gradient to the image alone."""
    discriminator.requires_grad_(False)
    loss = generator_loss(discriminator(augment(image)))
    discriminator.requires_grad_(True)
    return loss


def discriminator_step(
    discriminator: Discriminator,
    optimizer: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    r1_weight: float,
    augment: AdaptiveAugment | None = None,
) -> Values:
    """One step on real and fake [B, 3, R, R]; R1 of up to R1_BATCH real ones joins it where its weight is not 0.

    What `augment` changes is told the scores of the real ones.
    """
    change = augment or unchanged
    real_scores, fake_scores = discriminator(change(real)), discriminator(change(fake))
    if augment is not None:
        augment.observe(real_scores)
    optimizer.zero_grad(set_to_none=True)
    discriminator_loss(real_scores, fake_scores).backward()
    if r1_weight:
        (r1_penalty(discriminator, real[:R1_BATCH], change) * r1_weight).backward()
    optimizer.step()
    return {"real": real_scores.detach().mean(), "fake": fake_scores.detach().mean()}
