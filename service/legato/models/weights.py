"""Weights of published backbones: from a file that the user names, or else from torchvision's cache; never fetched."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from legato.errors import ModelFileError

BACKBONES = {  # torchvision's cache: <hub>/checkpoints/...
    "vgg16": "vgg16-397923af.pth",
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
ALTERNATIVES = (
    "Without them: an attribute network that `legato train` made on renders (perceptual 'attributes'), or the "
    "Laplacian pyramid alone, which needs no weights"
)


def weights_file(weights: str | Path | None, backbone: str, *, cached: bool) -> Path:
    """The named file, or torchvision's in its cache."""
    if weights is not None:
        if not Path(weights).is_file():
            raise ModelFileError(f"no weights of {backbone} at {weights} (option weights). {ALTERNATIVES}")
        return Path(weights)
    if not cached:
        raise ModelFileError(
            f"{backbone} with Caffe's weights (keys layerN.weight, as the in-domain inversion's release names them) is "
            f"in no cache: name its file (option weights), or take slices made for torchvision's. {ALTERNATIVES}"
        )
    path = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[backbone]
    if not path.is_file():
        raise ModelFileError(
            f"no weights of {backbone}: none were named (option weights), and torchvision's cache has no {path}. Put "
            f"torchvision's {path.name} there or name its file. {ALTERNATIVES}"
        )
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ModelFileError(
            f"{path} cannot be read as a state dict of tensors ({type(error).__name__}). Give the .pth that "
            "torchvision publishes or the same tensors as .safetensors"
        ) from error
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def fill(module: nn.Module, found: Mapping[str, Tensor | None], path: Path) -> None:
    for name, own in module.state_dict().items():
        tensor = found[name]
        if tensor is None or tensor.shape != own.shape:
            got = "nothing" if tensor is None else list(tensor.shape)
            raise ModelFileError(f"{path} does not fit its network: {name} is {list(own.shape)}, found {got}")
    module.load_state_dict({name: tensor.float() for name, tensor in found.items() if tensor is not None})
