"""Adaptive augmentation (Karras et al. 2020, "Training generative adversarial networks with limited data").

Every image that the discriminator judges, real or made, goes through the pipeline "bgc" (appendix B): pixel blitting,
general geometry and color, each of its steps with probability p. p rises while r_t, the mean sign of the scores of real
images, is above its target (section 3.2, eq. 1), and falls below it. What differs from the authors' code: geometry is
sampled bicubically with reflection at the borders, without their wavelet filter at twice the resolution.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from legato.train.processes import ALONE, Group

TARGET = 0.6  # of r_t
RISE_IMAGES = 500_000  # in which p goes from 0 to 1
INTERVAL = 4  # steps between two changes of p
SHIFT, SCALE, ANISOTROPY, FRACTION = 0.125, 0.2, 0.2, 0.125  # ranges and deviations of the paper
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0

_BICUBIC, _REFLECT = 2, 1  # of aten::grid_sampler_2d


class AdaptiveAugment(nn.Module):
    """The pipeline, its probability and what moves it. With `target` 0 the probability stays at 0."""

    p: Tensor
    signs: Tensor

    def __init__(self, target: float = TARGET, rise_images: int = RISE_IMAGES, group: Group = ALONE) -> None:
        super().__init__()
        self.target, self.rise_images, self.group = target, rise_images, group
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(2))  # since p was last moved: sum, count

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, R, R] in [-1, 1], each changed for itself; twice differentiable."""
        p = float(self.p)
        return color(geometry(images, p), p) if p else images

    @torch.no_grad()
    def observe(self, real_scores: Tensor) -> None:
        """Takes in the scores [B, 1] that augmented real images got, in all processes."""
        found = torch.stack([real_scores.float().sign().sum(), self.signs.new_tensor(len(real_scores))])
        self.signs += self.group.mean_(found) * self.group.size

    @torch.no_grad()
    def adapt(self) -> Tensor:
        """Moves p by what was observed since, by so many images; gives r_t."""
        r_t = self.signs[0] / self.signs[1].clamp_min(1)
        if self.target:
            self.p.add_((r_t - self.target).sign() * self.signs[1] / self.rise_images).clamp_(0, 1)
        self.signs.zero_()
        return r_t


def geometry(images: Tensor, p: float) -> Tensor:
    """Mirrored, turned by quarters, shifted by whole pixels, scaled, turned, stretched, shifted: [B, 3, R, R]."""
    count, side, device = len(images), images.shape[3], images.device

    def chosen(value: Tensor, neutral: float, share: float = p) -> Tensor:
        return torch.where(torch.rand(count, device=device) < share, value, neutral)

    def uniform() -> Tensor:
        return torch.rand(count, device=device)

    def normal() -> Tensor:
        return torch.randn(count, device=device)

    # Where a pixel of the result is taken from, in coordinates from -1 to 1: the inverse of every step, in its order.
    mirror = chosen(1 - 2 * (uniform() * 2).floor(), 1.0)
    matrix = _scaled(mirror, torch.ones_like(mirror))
    matrix = matrix @ _turned(chosen((uniform() * 4).floor(), 0.0) * (-math.pi / 2))
    whole = [chosen(((2 * uniform() - 1) * SHIFT * side).round() / side, 0.0) for _ in range(2)]
    matrix = matrix @ _shifted(-2 * whole[0], -2 * whole[1])
    scale = chosen(torch.exp2(normal() * SCALE), 1.0)
    matrix = matrix @ _scaled(1 / scale, 1 / scale)
    turn = 1 - math.sqrt(1 - p)  # two turns, so that one of them happens with probability p
    matrix = matrix @ _turned(chosen((2 * uniform() - 1) * math.pi, 0.0, turn))
    stretch = chosen(torch.exp2(normal() * ANISOTROPY), 1.0)
    matrix = matrix @ _scaled(1 / stretch, stretch)
    matrix = matrix @ _turned(chosen((2 * uniform() - 1) * math.pi, 0.0, turn))
    part = [chosen(normal() * FRACTION, 0.0) for _ in range(2)]
    matrix = matrix @ _shifted(-2 * part[0], -2 * part[1])
    grid = nn.functional.affine_grid(matrix[:, :2], list(images.shape), align_corners=False)
    return sample(images.float(), grid)


def color(images: Tensor, p: float) -> Tensor:
    """Brightness, contrast, luma mirrored, hue, saturation: [B, 3, R, R]."""
    count, device = len(images), images.device

    def chosen(value: Tensor, neutral: float) -> Tensor:
        return torch.where(torch.rand(count, device=device) < p, value, neutral)[:, None, None]

    eye = torch.eye(3, device=device)
    gray = eye.new_full((3, 3), 1 / 3)  # v v^T of the luma axis v = (1, 1, 1) / sqrt 3
    shift = chosen(torch.randn(count, device=device) * BRIGHTNESS, 0.0)
    matrix = eye * chosen(torch.exp2(torch.randn(count, device=device) * CONTRAST), 1.0)
    matrix = (eye - 2 * gray * chosen((torch.rand(count, device=device) * 2).floor(), 0.0)) @ matrix
    angle = chosen((2 * torch.rand(count, device=device) - 1) * math.pi, 0.0)
    across = (eye[[2, 0, 1]] - eye[[1, 2, 0]]) / math.sqrt(3)  # x -> v x x
    matrix = (gray + (eye - gray) * angle.cos() + across * angle.sin()) @ matrix
    matrix = (gray + (eye - gray) * chosen(torch.exp2(torch.randn(count, device=device) * SATURATION), 1.0)) @ matrix
    return (matrix @ (images.flatten(2) + shift)).view_as(images)


def sample(images: Tensor, grid: Tensor) -> Tensor:
    """images [B, C, H, W] bicubically at grid [B, h, w, 2] in [-1, 1], reflected at the borders; twice differentiable
    in the images, which torch's own sampling is not."""
    found: Tensor = _Sample.apply(images, grid)  # type: ignore[no-untyped-call]
    return found


class _Sample(torch.autograd.Function):
    """Linear in the images: its derivative is its transpose, and the derivative of that is itself."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        sampled: Tensor = torch.ops.aten.grid_sampler_2d(images, grid, _BICUBIC, _REFLECT, False)
        return sampled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Spread.apply(grads[0], grid, ctx.shape), None  # type: ignore[no-untyped-call]


class _Spread(torch.autograd.Function):
    """The transpose of sampling: [B, C, h, w] back to where it was taken from."""

    @staticmethod
    def forward(ctx: Any, grads: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        images = grads.new_zeros(shape)  # their values do not matter to the derivative by them
        mask = (True, False)
        spread: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            grads.contiguous(), images, grid, _BICUBIC, _REFLECT, False, mask
        )[0]
        return spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return sample(grads[0], grid), None, None


def _matrix(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    """[[a, b, x], [c, d, y], [0, 0, 1]] of [B] each: [B, 3, 3]."""
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack([a, b, x, c, d, y, zero, zero, one], 1).view(-1, 3, 3)


def _scaled(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _matrix(x, zero, zero, zero, y, zero)


def _turned(angle: Tensor) -> Tensor:
    zero, cos, sin = torch.zeros_like(angle), angle.cos(), angle.sin()
    return _matrix(cos, -sin, zero, sin, cos, zero)


def _shifted(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix(one, zero, x, zero, one, y)
