"""Optical flow between frames by RAFT (Teed and Deng 2020, Recurrent All-Pairs Field Transforms), torchvision's network
with the user's weights. Convention as in `legato.models.flow`: pull, pixels, (x, y) order.

A session keeps its last frame in gray, so RAFT is given gray pictures, three equal channels. It wants sides of at least
128 pixels: smaller pictures are enlarged for it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from legato.errors import BackendUnavailable, ModelFileError
from legato.models._torchvision import define_ops
from legato.models.flow import resize_flow
from legato.models.weights import fill, read_state

MIN_SIDE = 128
UPDATES = 12  # of the flow, as published; the cost is nearly proportional to them
_PAIRS = 8  # that are computed at a time: the correlations of one pair take 4 (S / 8)^4 bytes


class RaftFlow:
    """Dense flow of [S, S] images on the network's device."""

    def __init__(self, network: nn.Module, arch: str) -> None:
        self._network = network.eval().requires_grad_(False)
        self.arch = arch

    @torch.no_grad()
    def pairs(self, current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Of gray uint8 images [M, S, S]: (pull flow of current from previous, of previous from current), each
        float32 [M, 2, S, S] on the CPU."""
        device, size = next(self._network.parameters()).device, current.shape[-1]
        side = max(MIN_SIDE, (size + 7) // 8 * 8)
        first, second = torch.cat([current, previous]), torch.cat([previous, current])
        found = []
        for one, other in zip(first.split(_PAIRS), second.split(_PAIRS), strict=True):
            prepared = (_prepared(image.to(device), side) for image in (one, other))
            flow: Tensor = self._network(*prepared, num_flow_updates=UPDATES)[-1]
            found.append(resize_flow(flow, size).cpu())
        pull, back = torch.cat(found).chunk(2)
        return pull, back


def load_raft(weights: str | Path, device: torch.device | str = "cpu") -> RaftFlow:
    """RAFT from torchvision's .pth of raft_small or raft_large, or the same tensors as .safetensors.

    Nothing in the file is executed. Raises ModelFileError where it is missing, damaged or another network's;
    BackendUnavailable without torchvision.
    """
    path = Path(weights)
    if not path.is_file():
        raise ModelFileError(f"no weights of RAFT at {path}; give torchvision's .pth of raft_small or raft_large")
    state = read_state(path)
    if "feature_encoder.convnormrelu.0.weight" not in state:
        raise ModelFileError(
            f"{path} holds no RAFT in torchvision's naming: feature_encoder.convnormrelu.0.weight is missing. Give "
            "torchvision's .pth of raft_small or raft_large"
        )
    arch = "raft_large" if any(name.startswith("mask_predictor.") for name in state) else "raft_small"
    network = getattr(_module(), arch)(weights=None, progress=False)
    own = network.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is not known" for name in state if name not in own]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ModelFileError(f"{path} does not fit torchvision's {arch}: {'; '.join(wrong[:4])}{more}")
    fill(network, state, path)
    return RaftFlow(network.to(device), arch)


def _prepared(gray: Tensor, side: int) -> Tensor:
    """uint8 [M, S, S] -> [M, 3, side, side] in [-1, 1]."""
    image = (gray[:, None].float() / 127.5 - 1.0).expand(-1, 3, -1, -1)
    if gray.shape[-1] == side:
        return image.contiguous()
    return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)


def _module() -> Any:
    try:
        define_ops()
        return importlib.import_module("torchvision.models.optical_flow")
    except ImportError as error:
        raise BackendUnavailable(
            f"RAFT was asked for and torchvision cannot be imported ({error}): pip install 'legato[flow]', or take the "
            "flow that needs nothing, dis"
        ) from error
