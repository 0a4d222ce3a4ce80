"""A regressor of the known attributes of rendered heads: what directions are measured with.

It reads the image at 64 px, so that it sees what a viewer sees and not the last pixel's noise. Its features before
the last layer serve a Frechet distance between sets of heads (Heusel et al. 2017, eq. 6, with these in place of
Inception's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legato.errors import ModelFileError
from legato.models.files import read_tensors, resolve, write_tensors
from legato.models.layers import EqualConv2d, EqualLinear

SIZE = 64


@dataclass(frozen=True, slots=True)
class AttributesConfig:
    """Names of what is read, in order; width of the first layer; number of features."""

    names: tuple[str, ...]
    width: int = 32
    features: int = 256


class AttributeNetwork(nn.Module):
    """Image [B, 3, R, R] in [-1, 1] -> attributes [B, A] in their own units; R is 64 or a multiple of it."""

    mean: Tensor  # [A] of the training set
    deviation: Tensor  # [A]

    def __init__(self, config: AttributesConfig) -> None:
        super().__init__()
        self.config = config
        self.digest = ""
        w = config.width
        self.convs = nn.ModuleList(
            EqualConv2d(c_in, c_out, 3, activate=True, stride=stride, filtered=False)
            for c_in, c_out, stride in (
                (3, w, 1),
                (w, 2 * w, 2),
                (2 * w, 2 * w, 1),
                (2 * w, 4 * w, 2),
                (4 * w, 4 * w, 1),
                (4 * w, 6 * w, 2),
            )
        )
        self.reduce = EqualConv2d(6 * w, 2 * w, 1, activate=True)
        self.hidden = EqualLinear(2 * w * 64, config.features, activate=True)
        self.out = EqualLinear(config.features, len(config.names))
        self.register_buffer("mean", torch.zeros(len(config.names)))
        self.register_buffer("deviation", torch.ones(len(config.names)))

    def maps(self, image: Tensor) -> list[Tensor]:
        """The output [B, C, h, w] of every convolution of the trunk, 64 to 8 pixels."""
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3] or image.shape[2] % SIZE:
            raise ValueError(f"image is [B, 3, R, R] with R a multiple of {SIZE}; got {list(image.shape)}")
        x = F.avg_pool2d(image, image.shape[2] // SIZE) if image.shape[2] > SIZE else image
        maps: list[Tensor] = []
        for conv in self.convs:
            x = conv(x)
            maps.append(x)
        return maps

    def features(self, image: Tensor) -> Tensor:
        """[B, features]."""
        hidden: Tensor = self.hidden(self.reduce(self.maps(image)[-1]).flatten(1).float())
        return hidden

    def standardized(self, image: Tensor) -> Tensor:
        """Attributes [B, A] in standard deviations of the training set."""
        found: Tensor = self.out(self.features(image))
        return found

    def forward(self, image: Tensor) -> Tensor:
        return self.standardized(image) * self.deviation + self.mean


def save_attributes(network: AttributeNetwork, path: str | Path, *, recipe: Mapping[str, Any]) -> None:
    """Writes the network as float16 safetensors with legato's header. Raises ModelFileError."""
    tensors = {name: t.detach().cpu().half() for name, t in network.state_dict().items()}
    write_tensors(path, tensors, kind="attributes", config=asdict(network.config), recipe=recipe)


def load_attributes(path_or_name: str | Path) -> AttributeNetwork:
    """A network from a file, or from a folder that holds attributes.safetensors. Raises ModelFileError."""
    path = resolve(path_or_name, "attributes.safetensors")
    header, tensors = read_tensors(path, kind="attributes")
    try:
        fields = dict(header.config)
        network = AttributeNetwork(AttributesConfig(**{**fields, "names": tuple(fields["names"])}))
        network.load_state_dict({name: t.float() for name, t in tensors.items()})
    except (KeyError, TypeError, RuntimeError) as error:
        raise ModelFileError(f"{path} does not hold an attribute network: {error}. Train it again") from error
    network.digest = header.digest
    return network.eval().requires_grad_(False)
