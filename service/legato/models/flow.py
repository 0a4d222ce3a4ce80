"""Optical flow between frames by OpenCV's DIS (Kroeger et al. 2016, Fast Optical Flow using Dense Inverse Search).

Convention: **pull**, pixels, (x, y) order, pixel centers at integers: `previous(p + flow(p)) ~ current(p)`.
"""

from __future__ import annotations

from typing import Protocol

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


class FlowFinder(Protocol):
    """Finds the flow between gray images; for one thread."""

    def pairs(self, current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Of uint8 images [M, S, S]: (pull flow of current from previous, of previous from current), each float32
        [M, 2, S, S], all on the CPU."""


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

    def pairs(self, current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """As `FlowFinder` says, pair by pair."""
        found = [self.both(one.numpy(), other.numpy()) for one, other in zip(current, previous, strict=True)]
        return torch.cat([pull for pull, _ in found]), torch.cat([back for _, back in found])


def resize_flow(flow: Tensor, side: int) -> Tensor:
    """Flow [B, 2, S, S] at another resolution: the field is interpolated, its vectors are scaled."""
    if flow.shape[-1] == side:
        return flow
    scale = side / flow.shape[-1]
    return torch.nn.functional.interpolate(flow, size=(side, side), mode="bilinear", align_corners=False) * scale


def visible(flow: Tensor, backward: Tensor | None = None) -> Tensor:
    """Where `flow` [B, 2, H, W] can be trusted: float [B, 1, H, W] of 0 and 1.

    Not trusted: pixels that come from outside the image; motion boundaries; and, given the opposite flow `backward`,
    pixels that fail the forward-backward check, as `flow_warp` has them.
    """
    nothing = flow.new_empty(flow.shape[0], 0, *flow.shape[2:])
    return flow_warp(nothing, flow, backward=backward, boundaries=True)[1]
