"""Networks whose features say how alike two images look, behind one method: `features(image) -> maps`.

`losses.perceptual_distance` compares what they give. Every one takes images [B, 3, R, R] in [-1, 1]. None of them
comes with weights: VGG16 and LPIPS read the file that the user names, or else torchvision's cache; the trunk of an
attribute network is trained by legato on its own renders and needs nothing from outside.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from legato.errors import BackendUnavailable, InvalidInput, ModelFileError
from legato.models._torchvision import define_ops
from legato.models.attributes import AttributeNetwork, load_attributes
from legato.models.weights import ALTERNATIVES, BACKBONES, fill, read_state, weights_file

Penalty = Literal["mse", "l1"]


class PerceptualNetwork(Protocol):
    """What a perceptual distance needs."""

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps [B, C, h, w] of an image [B, 3, R, R] in [-1, 1], shallow to deep, differentiable."""
        ...


@dataclass(frozen=True, slots=True)
class Slices:
    """Which maps of VGG16 a paper's code compares, and what it feeds the network.

    normalization: "none" feeds [0, 1]; "imagenet" subtracts torchvision's mean from [0, 1] and divides by its
    deviation; "caffe" feeds BGR of [0, 255] without its mean. weights: whose training the numbers belong to.
    """

    layers: tuple[str, ...]
    normalization: Literal["none", "imagenet", "caffe"]
    weights: Literal["torchvision", "caffe"] = "torchvision"
    side: int | None = 256  # pixels that the image is resized to; None: it stays
    resize: Literal["bilinear", "nearest"] = "bilinear"
    penalty: Penalty = "mse"  # what the code compares the maps with


SLICES: Mapping[str, Slices] = {
    # Xu et al. 2021, the released code: sum of the four mean squares, weight 1.
    "consecutive": Slices(("relu1_1", "relu1_2", "relu3_2", "relu4_2"), "none"),
    # Zhu et al. 2020, the released code: one mean square, weight 5e-5 for Caffe's features, which are large.
    "in_domain": Slices(("relu4_3",), "caffe", weights="caffe", resize="nearest"),
    # The same map of torchvision's network, for who has only that; its features are smaller, so the weight differs.
    "in_domain_torchvision": Slices(("relu4_3",), "imagenet", resize="nearest"),
    # Gu et al. 2020, the released code: mean absolute difference, weight 1e-3 (the paper says conv4_3).
    "multi_code": Slices(("relu3_3",), "imagenet", resize="nearest", penalty="l1"),
}


# VGG16 (Simonyan and Zisserman 2015, table 1, D): channels of the 3x3 convolutions between 2x2 poolings.
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_RELUS = tuple(f"relu{b}_{i}" for b, widths in enumerate(_BLOCKS, 1) for i in range(1, len(widths) + 1))


class VGG16(nn.Module):
    """The convolutions of VGG16 up to the deepest map of `slices`, numbered as in torchvision's `features`, where a
    ReLU follows each convolution and a pooling each block."""

    shift: Tensor  # [3, 1, 1]
    scale: Tensor  # [3, 1, 1]

    def __init__(self, slices: Slices) -> None:
        super().__init__()
        if not slices.layers or not set(slices.layers) <= set(_RELUS):
            raise ValueError(f"maps of VGG16 are named {_RELUS[0]} ... {_RELUS[-1]}; got {slices.layers}")
        self.slices = slices
        self.relus = _RELUS[: max(_RELUS.index(name) for name in slices.layers) + 1]
        channels = 3
        for relu in self.relus:
            width = _BLOCKS[int(relu[4]) - 1][int(relu[6]) - 1]
            self.add_module(_position(relu), nn.Conv2d(channels, width, 3, padding=1))
            channels = width
        mean, deviation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if slices.normalization == "imagenet":
            mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        elif slices.normalization == "caffe":
            mean, deviation = (103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255, 1 / 255, 1 / 255)
        self.register_buffer("shift", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(deviation)[:, None, None], persistent=False)

    def features(self, image: Tensor) -> list[Tensor]:
        """The maps of `slices.layers`, shallow to deep."""
        _check(image)
        x = _resized(image, self.slices.side, self.slices.resize) * 0.5 + 0.5
        if self.slices.normalization == "caffe":
            x = x.flip(1)
        x = (x - self.shift) * self.scale
        maps: list[Tensor] = []
        for relu in self.relus:
            if relu.endswith("_1") and relu != _RELUS[0]:
                x = F.max_pool2d(x, 2)
            x = F.relu(self.get_submodule(_position(relu))(x))
            if relu in self.slices.layers:
                maps.append(x)
        return maps


def _position(relu: str) -> str:
    """relu2_1 -> "5", the place of its convolution."""
    index = _RELUS.index(relu)
    return str(2 * index + int(relu[4]) - 1)


def load_vgg16(slices: Slices, weights: str | Path | None = None) -> VGG16:
    """VGG16 with the weights of a file (.pth or .safetensors), or of torchvision's cache; no gradients to weights.

    Keys: `features.N.weight` are torchvision's, `layerN.weight` those converted from Caffe. Raises ModelFileError where
    the file is missing, damaged, or of other weights than the slices are made for.
    """
    path = weights_file(weights, "vgg16", cached=slices.weights == "torchvision")
    state = read_state(path)
    kind = "caffe" if any(name.startswith("layer") for name in state) else "torchvision"
    if kind != slices.weights:
        raise ModelFileError(
            f"{path} holds VGG16 of {kind}; these slices compare maps of {slices.weights}'s weights, whose input and "
            f"scale differ. Name a file of {slices.weights}'s weights, or take slices made for {kind}: "
            f"{', '.join(name for name, s in SLICES.items() if s.weights == kind)}"
        )
    prefix = "layer" if kind == "caffe" else "features."
    network = VGG16(slices)
    fill(network, {name: state.get(prefix + name) for name in network.state_dict()}, path)
    return network.eval().requires_grad_(False)


class Lpips(nn.Module):
    """LPIPS (Zhang et al. 2018, eq. 1) as features: `perceptual_distance` of them, "mse", is LPIPS.

    Each map is normalized over its channels, and a channel c of the C in a layer is multiplied by sqrt(C * w_c), with
    w the layer's learned linear weights; the mean of squares over [C, h, w] is then the paper's sum over channels and
    mean over pixels.
    """

    def __init__(self, module: nn.Module) -> None:
        """module: an `lpips.LPIPS`."""
        super().__init__()
        self.lpips: Any = module

    def features(self, image: Tensor) -> list[Tensor]:
        """One map for each of the backbone's five (squeeze: seven) layers."""
        _check(image)
        maps = self.lpips.net(self.lpips.scaling_layer(image))
        weights = [lin.model[-1].weight[0] for lin in self.lpips.lins]  # each [C, 1, 1], not negative
        return [_unit(x) * (x.shape[1] * w).sqrt() for x, w in zip(maps, weights, strict=True)]


def load_lpips(backbone: str = "alex", weights: str | Path | None = None) -> Lpips:
    """LPIPS 0.1 with its learned weights from the package `lpips`, on the backbone of a file in torchvision's naming.

    Raises BackendUnavailable where the package is not installed, ModelFileError where the file is missing or damaged.
    """
    name = {"vgg": "vgg16"}.get(backbone, backbone)
    if name not in BACKBONES:
        raise InvalidInput(f"LPIPS has the backbones alex, vgg and squeeze; got {backbone!r}")
    package = _import_lpips()
    path = weights_file(weights, name, cached=True)
    state = read_state(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, about the arguments that lpips gives it
        module = package.LPIPS(net=backbone, pretrained=True, pnet_rand=True, verbose=False)
    # lpips cuts torchvision's `features` into slices and keeps the numbers: slice2.3.weight is features.3.weight.
    wanted = {key: state.get("features." + key.split(".", 1)[1]) for key in module.net.state_dict()}
    fill(module.net, wanted, path)
    return Lpips(module.eval().requires_grad_(False))


class AttributeTrunk(nn.Module):
    """The convolutions of an attribute network as a perceptual network, each map normalized over its channels.

    Like LPIPS with equal linear weights: a layer counts the mean over pixels of the squared distance of unit vectors.
    """

    def __init__(self, network: AttributeNetwork) -> None:
        super().__init__()
        self.network = network

    def features(self, image: Tensor) -> list[Tensor]:
        """Six maps, of 64 to 8 pixels; R is 64 or a multiple of it."""
        return [_unit(x) * x.shape[1] ** 0.5 for x in self.network.maps(image)]


def load_perceptual(name: str, weights: str | Path | None = None) -> PerceptualNetwork:
    """A perceptual network by name: vgg16-SLICES (`SLICES`), lpips-alex, lpips-vgg, lpips-squeeze or attributes.

    Raises InvalidInput on another name, and as the loaders do.
    """
    family, _, variant = name.partition("-")
    if family == "vgg16" and variant in SLICES:
        return load_vgg16(SLICES[variant], weights)
    if family == "lpips" and variant in ("alex", "vgg", "squeeze"):
        return load_lpips(variant, weights)
    if name == "attributes":
        if weights is None:
            raise ModelFileError(
                "the perceptual network 'attributes' needs an attribute network (option weights: the file, or the name "
                "of a model that has one, as heads-128); `legato train generator` makes one on renders"
            )
        return AttributeTrunk(load_attributes(weights))
    known = ", ".join([*(f"vgg16-{s}" for s in SLICES), "lpips-alex", "lpips-vgg", "lpips-squeeze", "attributes"])
    raise InvalidInput(f"no perceptual network is named {name!r}; there are: {known}")


def at_side(slices: Slices, side: int | None) -> Slices:
    """The slices on images of another side than the paper's: None keeps each image's own."""
    return replace(slices, side=side)


def _check(image: Tensor) -> None:
    if image.dim() != 4 or image.shape[1] != 3 or min(image.shape[2:]) < 16:
        raise ValueError(f"image is [B, 3, R, R] with R >= 16; got {list(image.shape)}")


def _resized(image: Tensor, side: int | None, mode: str) -> Tensor:
    if side is None or image.shape[2:] == (side, side):
        return image
    return F.interpolate(image, size=(side, side), mode=mode, align_corners=False if mode == "bilinear" else None)


def _unit(x: Tensor) -> Tensor:
    """x / (|x| + 1e-10), the length taken over the channels, as lpips does; 0 with gradient 0 where all are 0."""
    squares = x.square().sum(1, keepdim=True)
    alive = squares > 0
    return x * torch.where(alive, 1 / (torch.where(alive, squares, 1.0).sqrt() + 1e-10), 0.0)


def _import_lpips() -> Any:
    try:
        define_ops()
        return importlib.import_module("lpips")
    except ImportError as error:
        raise BackendUnavailable(
            f"LPIPS was asked for and cannot be imported ({error}): pip install 'legato[perceptual]'. {ALTERNATIVES}"
        ) from error
