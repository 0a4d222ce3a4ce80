"""Inversion consistency: the identities that the released code fulfills, and what the other forms add."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from legato.inversion.consistency import Anchor, Consistency, FlowFunction, Pairs, consistency, dis_flow
from legato.losses import mse
from legato.models.flow import visible
from tests.tolerances import EXACT, FLOW_PIXELS, LOSS_ROUNDING

N, SIDE = 5, 12


def flow_of(scale: float) -> FlowFunction:
    """A flow function of shifts by some `scale` pixels that vary a little over the image; 0: no motion."""

    def flow(current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(len(current))
        shift = torch.randn(len(current), 2, 1, 1, generator=draw)
        coarse = 0.05 * torch.randn(2, len(current), 2, 3, 3, generator=draw)
        forward, backward = (F.interpolate(c, size=current.shape[2:], mode="bilinear") for c in coarse)
        return scale * (shift + forward), scale * (backward - shift)

    return flow


def pairs_of(images: Tensor, scale: float = 1.0, anchor: Anchor = "first", occlusion: bool = False) -> Pairs:
    return Pairs.of(images, N, anchor, flow_of(scale), occlusion=occlusion)


def grid_sampled(image: Tensor, flow: Tensor) -> Tensor:
    """Identity (d): the warp is grid_sample with clamped borders of x + f, normalized by the last pixel."""
    side = image.shape[-1]
    line = torch.arange(side, dtype=torch.float32)
    where = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1) + flow.permute(0, 2, 3, 1)
    return F.grid_sample(image, where / (side - 1) * 2 - 1, padding_mode="border", align_corners=True)


def value(kind: Consistency, pairs: Pairs, made: Tensor, real: Tensor) -> Tensor:
    term = consistency(kind, pairs, real, N, 1.0, squared=True)
    return term.measure(made, torch.zeros(len(made), 1, 1))


@pytest.mark.parametrize("anchor", ["first", "adjacent"])
@pytest.mark.parametrize("kind", ["residual", "cross_gen", "cross_real"])
def test_a_term_is_its_sum_written_out(kind: Consistency, anchor: Anchor) -> None:
    real, made = torch.randn(2, 2 * N, 3, SIDE, SIDE)
    pairs = pairs_of(real, 2.0, anchor, occlusion=True)
    expected = torch.zeros(2)
    pair = 0
    for clip in range(2):
        for second in range(1, N):
            b = clip * N + second
            a = b - 1 if anchor == "adjacent" else clip * N
            forward, backward = pairs.forward[pair, None], pairs.backward[pair, None]
            for i, j, flow, other in ((a, b, forward, backward), (b, a, backward, forward)):
                warped = grid_sampled(made[i, None], flow)
                against = {
                    "residual": grid_sampled(real[i, None], flow),  # identity (b): W(G) - W(I) = W(G - I)
                    "cross_gen": made[j, None],
                    "cross_real": real[j, None],
                }[kind]
                expected[clip] += ((warped - against).square() * visible(flow, other)).mean() / (N - 1)
            pair += 1
    assert pairs.seen_forward.mean((1, 2, 3)).min() > 0
    assert pairs.seen_forward.mean() < 1
    found = value(kind, pairs, made, real).view(2, N).mean(1)
    torch.testing.assert_close(found, expected, **LOSS_ROUNDING)


def test_without_motion_the_residual_re_weights_the_anchor() -> None:
    """Identity (c): L_C + L_ICC = 1.2 MSE_1 + 0.45 sum over the others, for 5 frames."""
    real, made = torch.randn(2, N, 3, SIDE, SIDE)
    each = mse(made, real)
    together = each + value("residual", pairs_of(real, 0.0), made, real)
    torch.testing.assert_close(together.mean(), 1.2 * each[0] + 0.45 * each[1:].sum(), **LOSS_ROUNDING)


def test_only_cross_terms_compare_frames_with_each_other() -> None:
    real, made = torch.randn(2, N, 3, SIDE, SIDE)
    pairs = pairs_of(real)
    forms: tuple[tuple[Consistency, bool], ...] = (("residual", False), ("cross_gen", True))
    for kind, coupled in forms:
        image = made.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(kind, pairs, image, real).sum(), image)
        moved = made.clone()
        moved[0] += 1.0
        image = moved.requires_grad_()
        (again,) = torch.autograd.grad(value(kind, pairs, image, real).sum(), image)
        assert torch.equal(gradient[2], again[2]) is not coupled


def test_flow_is_asked_once_of_the_real_frames_and_masks_hide_what_it_cannot_see() -> None:
    real = torch.randn(N, 3, SIDE, SIDE)
    everything, trusted = pairs_of(real, 2.0), pairs_of(real, 2.0, occlusion=True)
    assert everything.seen_forward.all()
    assert 0 < float(trusted.seen_forward.mean()) < 1
    torch.testing.assert_close(trusted.seen_backward, visible(trusted.backward, trusted.forward), **EXACT)
    assert everything.first.tolist() == [0, 0, 0, 0]
    assert pairs_of(real, anchor="adjacent").first.tolist() == [0, 1, 2, 3]
    assert everything.second.tolist() == [1, 2, 3, 4]


def test_flow_by_dis_pulls_the_previous_image_to_the_current() -> None:
    texture = F.interpolate(torch.rand(1, 3, 40, 40) * 2 - 1, size=80, mode="bicubic").clamp(-1, 1)
    previous, current = texture[:, :, 8:72, 8:72], texture[:, :, 8:72, 6:70]  # moved 2 pixels to the right
    forward, backward = dis_flow(current.repeat(2, 1, 1, 1), previous.repeat(2, 1, 1, 1))
    assert forward.shape == backward.shape == (2, 2, 64, 64)
    middle = np.s_[:, :, 16:48, 16:48]
    wanted = torch.tensor([-2.0, 0.0])
    torch.testing.assert_close(forward[middle].mean((0, 2, 3)), wanted, **FLOW_PIXELS)
    torch.testing.assert_close(backward[middle].mean((0, 2, 3)), -wanted, **FLOW_PIXELS)
