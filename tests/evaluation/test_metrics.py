"""Metrics against their formulas written out, and against values known by construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from legato.evaluation.metrics import (
    Motion,
    estimated_motion,
    identity_embedding,
    identity_similarity,
    latent_error,
    ssim,
    temporal_identity,
    warp_error,
)
from legato.models.attributes import AttributeNetwork, AttributesConfig
from legato.synthetic.factors import ATTRIBUTES, MOTION
from tests.tolerances import LOSS_ROUNDING, METRIC_ROUNDING


def similarity_written_out(x: Tensor, y: Tensor) -> float:
    """Equation 13 of Wang et al. at every whole window of two gray images [H, W] in [0, 255]."""
    offset = torch.arange(11).double() - 5
    w = torch.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    w = w / w.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb, cov = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
            found.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(torch.stack(found).mean())


def test_ssim_is_the_papers_formula() -> None:
    x, y = torch.rand(2, 3, 14, 12).double() * 2 - 1, torch.rand(2, 3, 14, 12).double() * 2 - 1
    y = 0.7 * x + 0.3 * y
    wanted = [
        sum(similarity_written_out((x[b, c] + 1) * 127.5, (y[b, c] + 1) * 127.5) for c in range(3)) / 3
        for b in range(2)
    ]
    torch.testing.assert_close(ssim(x, y), torch.tensor(wanted).double(), **METRIC_ROUNDING)


def test_ssim_of_the_same_image_is_1_and_noise_lowers_it() -> None:
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    values = [float(ssim(x + s * torch.randn_like(x), x)) for s in (0.0, 0.1, 0.3)]
    assert values[0] == pytest.approx(1.0)
    assert values[0] > values[1] > values[2]
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(x[..., :10], x[..., :10])


def sliding(count: int = 4, side: int = 32) -> Tensor:
    """Frames [T, 3, R, R] of a smooth texture that moves one pixel to the right a frame."""
    wide = F.interpolate(torch.rand(1, 3, 12, 12), size=(side, side + count), mode="bicubic", align_corners=False)
    return torch.cat([wide[..., count - t : count - t + side] for t in range(count)]).clamp(0, 1) * 2 - 1


def known_motion(count: int = 4, side: int = 32) -> Motion:
    flow = torch.zeros(count - 1, 2, side, side)
    flow[:, 0] = -1.0
    mask = torch.ones(count - 1, 1, side, side)
    mask[..., 0] = 0
    return Motion(flow, mask)


def test_warp_error_is_zero_along_the_motion_and_counts_what_flickers() -> None:
    frames, motion = sliding(), known_motion()
    torch.testing.assert_close(warp_error(frames, motion), torch.zeros(3), **LOSS_ROUNDING)
    still = warp_error(frames, Motion(torch.zeros_like(motion.flow), motion.visible))
    assert (still > 1e-4).all()
    flicker = frames.clone()
    flicker[2] += 0.2  # .1 on [0, 1], in two of the three pairs
    torch.testing.assert_close(warp_error(flicker, motion), torch.tensor([0.0, 0.01, 0.01]), **LOSS_ROUNDING)


def test_warp_error_leaves_out_what_is_hidden() -> None:
    frames, motion = sliding(), known_motion()
    frames[1, :, :8] = 1.0
    motion.visible[:2, :, :8] = 0
    torch.testing.assert_close(warp_error(frames, motion), torch.zeros(3), **LOSS_ROUNDING)
    motion.visible.zero_()
    assert warp_error(frames, motion).abs().max() == 0
    with pytest.raises(ValueError, match=r"motion of one less; got flow \[3, 2, 32, 32\]"):
        warp_error(frames[:3], motion)


def test_motion_is_estimated_from_frames() -> None:
    frames = sliding(3, 64)
    motion = estimated_motion(((frames + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy())
    inside = motion.visible[..., 8:-8, 8:-8]
    assert inside.mean() > 0.9
    assert float((motion.flow[:, :1, 8:-8, 8:-8] + 1).abs().mean()) < 0.2
    assert float(warp_error(frames, motion).mean()) < 1e-3
    with pytest.raises(ValueError, match="at least 2 frames"):
        estimated_motion(np.zeros((1, 64, 64, 3), np.uint8))


def test_temporal_identity_is_relative_to_the_source() -> None:
    source = torch.randn(5, 8)
    assert temporal_identity(source, 3 * source) == pytest.approx((1.0, 1.0))
    angle = torch.tensor([0.0, 0.1, 0.2])
    turning = torch.stack([angle.cos(), angle.sin()], 1)  # adjacent cosines cos .1, the far one cos .2
    still = torch.ones(3, 2)
    near, far = float(torch.cos(torch.tensor(0.1))), float(torch.cos(torch.tensor(0.2)))
    assert temporal_identity(still, turning) == pytest.approx((near, (2 * near + far) / 3))
    with pytest.raises(ValueError, match=r"got \[5, 8\], \[3, 2\]"):
        temporal_identity(source, still)


def test_identity_is_read_without_pose_expression_and_the_edited_attribute() -> None:
    network = AttributeNetwork(AttributesConfig(ATTRIBUTES, width=2, features=4)).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    found = identity_embedding(network, images, without=("beard",))
    kept = [i for i, name in enumerate(ATTRIBUTES) if name not in (*MOTION, "beard")]
    torch.testing.assert_close(found, network.standardized(images).detach()[:, kept], **LOSS_ROUNDING)
    assert found.shape == (2, len(ATTRIBUTES) - len(MOTION) - 1)
    with pytest.raises(ValueError, match="no attribute of identity is left"):
        identity_embedding(network, images, without=ATTRIBUTES)
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(
        identity_similarity(a, torch.tensor([[2.0, 0.0], [-1.0, 1.0]])), torch.tensor([1.0, 0.0]), **LOSS_ROUNDING
    )


def test_latent_error() -> None:
    truth = torch.zeros(2, 3, 4)
    found = truth + torch.tensor([0.5, 2.0]).view(2, 1, 1)
    assert latent_error(found, truth).tolist() == [0.25, 4.0]
