"""Optical flow in pull convention, and where it is not to be trusted."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from legato.losses import l1
from legato.models.flow import DisFlow, gray, resize_flow, visible
from legato.ops import flow_warp
from tests.tolerances import EXACT, FLOW_PIXELS

SIDE = 96


def texture(side: int = SIDE + 32) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    smooth = np.asarray(cv2.GaussianBlur(noise, (0, 0), 4.0))
    pixels: NDArray[np.uint8] = ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)
    return pixels


def tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float32) / 127.5 - 1)[None, None]


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -4), (2, 3)])
def test_flow_pulls_the_current_frame_out_of_the_previous(x: int, y: int) -> None:
    whole = texture()
    previous = np.ascontiguousarray(whole[16 : 16 + SIDE, 16 : 16 + SIDE])
    current = np.ascontiguousarray(
        whole[16 + y : 16 + y + SIDE, 16 + x : 16 + x + SIDE]
    )  # current(p) = previous(p + (x, y))
    flow = torch.from_numpy(DisFlow()(current, previous))[None]
    inner = flow[0, :, 8:-8, 8:-8].mean((1, 2))
    torch.testing.assert_close(inner, torch.tensor([float(x), float(y)]), **FLOW_PIXELS)
    warped, valid = flow_warp(tensor(previous), flow)
    moved = l1(tensor(previous), tensor(current))
    assert l1(warped * valid, tensor(current) * valid) < 0.25 * moved


def test_a_flow_does_not_depend_on_those_before_it() -> None:
    whole, dis = texture(), DisFlow()
    a, b = np.ascontiguousarray(whole[:SIDE, :SIDE]), np.ascontiguousarray(whole[4 : 4 + SIDE, :SIDE])
    first = dis(a, b)
    dis(b, a)
    np.testing.assert_array_equal(dis(a, b), first)


def test_flat_images_have_no_motion() -> None:
    flat = np.full((SIDE, SIDE), 128, np.uint8)
    assert not DisFlow()(flat, flat).any()
    assert np.isfinite(DisFlow()(flat, texture(SIDE))).all()


def test_what_comes_from_outside_is_not_visible() -> None:
    flow = torch.zeros(1, 2, 16, 16)
    flow[:, 0] = 5.0
    seen = visible(flow)
    assert seen[..., :11].all()
    assert not seen[..., 11:].any()


def test_motion_boundaries_are_not_visible() -> None:
    flow = torch.zeros(1, 2, 16, 16)
    flow[:, 0, :, 8:] = -3.0
    seen = visible(flow)
    assert not seen[..., 7].any()
    assert seen[..., :7].all()


def test_the_way_back_has_to_lead_to_where_it_began() -> None:
    forth = torch.zeros(1, 2, 16, 16)
    back = torch.zeros(1, 2, 16, 16)
    back[:, 1, :, :4] = 2.0
    seen = visible(forth, back)
    assert not seen[..., :4].any()
    assert seen[..., 4:].all()
    assert visible(forth + 1.0, back - 1.0)[..., 1:15, 5:15].all()


def test_a_larger_flow_has_longer_vectors() -> None:
    flow = torch.full((1, 2, 8, 8), 1.5)
    torch.testing.assert_close(resize_flow(flow, 16), torch.full((1, 2, 16, 16), 3.0), **EXACT)
    assert resize_flow(flow, 8) is flow


def test_gray_is_luma_at_flow_resolution() -> None:
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[..., 1] = 200
    frame[:16, :, 1] = 100
    small = gray(frame, 16)
    assert small.shape == (16, 16)
    assert small.dtype == np.uint8
    assert abs(int(small[12, 8]) - 0.587 * 200) <= 1
    assert abs(int(small[2, 8]) - 0.587 * 100) <= 1
