"""The logistic loss and R1 against their formulas; a step on a fixed batch lowers the loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from legato.models.discriminator import Discriminator
from legato.train.adversarial import R1_BATCH, discriminator_loss, discriminator_step, fool, generator_loss, r1_penalty
from tests.tolerances import EXACT, LOSS_ROUNDING, SAME_FORMULA
from tests.train.small import GENERATOR_16


def discriminator() -> Discriminator:
    return Discriminator(GENERATOR_16)


def test_logistic_losses_by_hand() -> None:
    real, fake = torch.tensor([[0.0], [2.0]]), torch.tensor([[-1.0], [1.0]])

    def log_sigmoid(x: float) -> float:
        return math.log(1 / (1 + math.exp(-x)))

    wanted = -(log_sigmoid(0) + log_sigmoid(2)) / 2 - (log_sigmoid(1) + log_sigmoid(-1)) / 2
    torch.testing.assert_close(discriminator_loss(real, fake), torch.tensor(wanted), **LOSS_ROUNDING)
    wanted = -(log_sigmoid(-1) + log_sigmoid(1)) / 2
    torch.testing.assert_close(generator_loss(fake), torch.tensor(wanted), **LOSS_ROUNDING)


def test_r1_is_the_squared_gradient() -> None:
    """Against the Jacobian of the scores in float64, the derivative in the weights included."""
    net, x = discriminator().double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda image: net(image).sum(0), x, create_graph=True
    )  # [1, 3, 3, R, R]
    wanted = jacobian[0].flatten(1).square().sum(1).mean()
    found = r1_penalty(net, x)
    torch.testing.assert_close(found, wanted, **SAME_FORMULA)
    weight = net.b4.fc.weight
    (wanted_gradient,) = torch.autograd.grad(wanted, weight)
    (found_gradient,) = torch.autograd.grad(found, weight)
    assert wanted_gradient.abs().max() > 0
    torch.testing.assert_close(found_gradient, wanted_gradient, **SAME_FORMULA)


def test_r1_ignores_the_half_precision_of_the_network() -> None:
    net, x = discriminator(), torch.randn(2, 3, 16, 16)
    wanted = r1_penalty(net, x)
    net.autocast_dtype = torch.bfloat16
    torch.testing.assert_close(r1_penalty(net, x), wanted, **EXACT)


def test_fool_moves_the_image_and_leaves_the_discriminator() -> None:
    net, image = discriminator(), torch.randn(2, 3, 16, 16, requires_grad=True)
    fool(net, image).backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_discriminator_learns_a_fixed_batch_and_the_image_to_fool_it() -> None:
    net, real, fake = discriminator(), torch.randn(8, 3, 16, 16).clamp(-1, 1), torch.zeros(8, 3, 16, 16)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.0, 0.99))
    before = float(discriminator_loss(net(real), net(fake)).detach())
    for step in range(20):
        discriminator_step(net, optimizer, real, fake, r1_weight=0.0 if step % 4 else 0.1)
    assert float(discriminator_loss(net(real), net(fake)).detach()) < 0.5 * before

    image = fake.clone().requires_grad_(True)
    before = float(fool(net, image).detach())
    for _ in range(20):
        (gradient,) = torch.autograd.grad(fool(net, image), image)
        image = (image.detach() - 0.05 * gradient.sign()).requires_grad_(True)
    assert float(fool(net, image).detach()) < 0.5 * before


def test_r1_joins_the_step() -> None:
    """The gradient of a step is that of the loss plus the weighted penalty of the first R1_BATCH real images."""
    net, real, fake = discriminator(), torch.randn(R1_BATCH + 4, 3, 16, 16), torch.zeros(R1_BATCH + 4, 3, 16, 16)
    loss = F.softplus(-net(real)).mean() + F.softplus(net(fake)).mean() + 3.0 * r1_penalty(net, real[:R1_BATCH])
    wanted = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    values = discriminator_step(net, torch.optim.SGD(net.parameters(), lr=0.0), real, fake, r1_weight=3.0)
    for parameter, gradient in zip(net.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **LOSS_ROUNDING)
    torch.testing.assert_close(values["real"], net(real).detach().mean(), **EXACT)
