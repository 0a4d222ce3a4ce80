"""Optical flow between frames by OpenCV's DIS (Kroeger et al. 2016, Fast Optical Flow using Dense Inverse Search).

Convention: **pull**, pixels, (x, y) order, pixel centers at integers: `previous(p + flow(p)) ~ current(p)`.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legato.ops import flow_warp

MAX_SIDE = 256  # pixels; flow of larger frames is found at this size and scaled up


def gray(frame: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Gray [side, side] of an RGB frame [R, R, 3], area-averaged."""
    luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if luma.shape[0] != side:
        luma = cv2.resize(luma, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(luma, np.uint8)


class DisFlow:
    """Dense flow of [S, S] images on the CPU, preset "fast" (0.2 ms at 128 px on one core).

    For one size of image, because OpenCV's object keeps the scales of the smallest image that it ever saw; and for one
    thread.
    """

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def __call__(self, current: NDArray[np.uint8], previous: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pull flow float32 [2, S, S] from the gray image `previous` [S, S] to `current` [S, S]."""
        field = np.zeros((*current.shape, 2), np.float32)
        vectors = np.asarray(self._dis.calc(current, previous, field), np.float32)
        return np.ascontiguousarray(vectors.transpose(2, 0, 1))

    def both(self, current: NDArray[np.uint8], previous: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """(pull flow of current from previous, pull flow of previous from current), each [1, 2, S, S]."""
        return torch.from_numpy(self(current, previous))[None], torch.from_numpy(self(previous, current))[None]


def resize_flow(flow: Tensor, side: int) -> Tensor:
    """Flow [B, 2, S, S] at another resolution: the field is interpolated, its vectors are scaled."""
    if flow.shape[-1] == side:
        return flow
    scale = side / flow.shape[-1]
    return torch.nn.functional.interpolate(flow, size=(side, side), mode="bilinear", align_corners=False) * scale


def visible(flow: Tensor, backward: Tensor | None = None) -> Tensor:
    """Where `flow` [B, 2, H, W] can be trusted: float [B, 1, H, W] of 0 and 1.

    Not trusted: pixels that come from outside the image; motion boundaries, |grad f|^2 > 0.01 |f|^2 + 0.002; and, given
    the opposite flow `backward`, pixels that fail the forward-backward check, |f + b(p+f)|^2 > 0.01 (|f|^2 +
    |b(p+f)|^2) + 0.5 (Sundaram et al. 2010, Dense Point Trajectories, eq. 5 and 6; the constants as Lai et al. 2018
    use them).
    """
    returned, inside = flow_warp(flow if backward is None else backward, flow)
    length = flow.square().sum(1, keepdim=True)
    down = torch.diff(flow, dim=2, append=flow[:, :, -1:])
    right = torch.diff(flow, dim=3, append=flow[:, :, :, -1:])
    boundary = (down.square() + right.square()).sum(1, keepdim=True) > 0.01 * length + 0.002
    trusted = inside.bool() & ~boundary
    if backward is not None:
        gap = (flow + returned).square().sum(1, keepdim=True)
        trusted &= gap <= 0.01 * (length + returned.square().sum(1, keepdim=True)) + 0.5
    return trusted.to(flow.dtype)
