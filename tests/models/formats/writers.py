"""Writes our networks as other code bases save theirs: by their names, their shapes, their containers."""

from __future__ import annotations

import argparse
import pickle
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from legato.models import Discriminator, Generator

FIR = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
SOURCE = "raise SystemExit('the source code of a pickle was executed')"


def layer_of(name: str) -> int:
    """The number of a convolution "synthesis.b8.conv0..." from the bottom: 0 is b4.conv1, 1 and 2 are b8's."""
    match = re.match(r"synthesis\.b(\d+)\.conv([01])", name)
    assert match is not None
    level = int(match[1]).bit_length() - 3
    return 2 * level - 1 + int(match[2]) if level else 0


def rosinality_state(generator: Generator) -> dict[str, Tensor]:
    """The state dict of its Generator."""
    state: dict[str, Tensor] = {}
    for name, tensor in generator.state_dict().items():
        part = name.rpartition(".")[2]
        if name.startswith("mapping.fc"):
            state[f"style.{int(name[10:].split('.')[0]) + 1}.{part}"] = tensor
        elif name.endswith("b4.const"):
            state["input.input"] = tensor[None]
        elif ".torgb." in name:
            state |= _rosinality_to_rgb(name, part, tensor)
        elif ".conv" in name:
            state |= _rosinality_layer(name, part, tensor)
    return state


def _rosinality_to_rgb(name: str, part: str, tensor: Tensor) -> dict[str, Tensor]:
    level = int(name.split(".")[1][1:]).bit_length() - 3
    prefix = f"to_rgbs.{level - 1}" if level else "to_rgb1"
    filters = {f"{prefix}.upsample.kernel": 4 * FIR} if level else {}
    if ".affine." in name:
        return {f"{prefix}.conv.modulation.{part}": tensor}
    if part == "bias":
        return {f"{prefix}.bias": tensor[None, :, None, None], **filters}
    return {f"{prefix}.conv.weight": tensor[None]}


def _rosinality_layer(name: str, part: str, tensor: Tensor) -> dict[str, Tensor]:
    number = layer_of(name)
    prefix = f"convs.{number - 1}" if number else "conv1"
    filters = {f"{prefix}.conv.blur.kernel": 4 * FIR} if number % 2 else {}
    if ".affine." in name:
        return {f"{prefix}.conv.modulation.{part}": tensor}
    if part == "noise_const":
        return {f"noises.noise_{number}": tensor[None, None]}
    if part == "noise_strength":
        return {f"{prefix}.noise.weight": tensor[None]}
    if part == "bias":
        return {f"{prefix}.activate.bias": tensor}
    return {f"{prefix}.conv.weight": tensor[None], **filters}


def rosinality_discriminator_state(discriminator: Discriminator) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    last = {"conv": "final_conv.{}", "fc": "final_linear.0.{}", "out": "final_linear.1.{}"}
    for name, tensor in discriminator.state_dict().items():
        block, layer, part = name.split(".")
        position = discriminator.resolution.bit_length() - int(block[1:]).bit_length() + 1
        if block == "b4":
            word = {"weight": "0.weight", "bias": "1.bias"}[part] if layer == "conv" else part
            state[last[layer].format(word)] = tensor
        elif layer == "fromrgb":
            state[{"weight": "convs.0.0.weight", "bias": "convs.0.1.bias"}[part]] = tensor
        elif layer == "skip":
            state[f"convs.{position}.skip.1.weight"] = tensor
            state[f"convs.{position}.skip.0.kernel"] = FIR
        elif layer == "conv0":
            state[f"convs.{position}.conv1.{'0.weight' if part == 'weight' else '1.bias'}"] = tensor
        else:
            state[f"convs.{position}.conv2.{'1.weight' if part == 'weight' else '2.bias'}"] = tensor
            state[f"convs.{position}.conv2.0.kernel"] = FIR
    return state


def rosinality_training(generator: Generator, discriminator: Discriminator) -> dict[str, Any]:
    """What its train.py saves: optimizers that have taken a step, an argparse.Namespace, no latent_avg."""
    saved: dict[str, Any] = {}
    for key, state in (("g", rosinality_state(generator)), ("d", rosinality_discriminator_state(discriminator))):
        parameters = [nn.Parameter(tensor.clone()) for tensor in state.values()]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer = torch.optim.Adam(parameters, lr=0.002, betas=(0.0, 0.99))
        optimizer.step()
        scale = 0.0 if key == "g" else 1.0  # whoever takes g instead of g_ema shall see it
        saved[key] = OrderedDict((name, scale * tensor) for name, tensor in state.items())
        saved[f"{key}_optim"] = optimizer.state_dict()
    saved["g_ema"] = OrderedDict(rosinality_state(generator))
    saved["g_ema"]._metadata = OrderedDict({"": {"version": 1}})
    saved["args"] = argparse.Namespace(iter=800000, path="data", lr=0.002, arch="stylegan2", augment=False)
    return saved | {"ada_aug_p": 0.0}


def psp(generator: Generator, latent_avg: Tensor | None, **options: Any) -> dict[str, Any]:
    """The decoder as it is, and the first tensors of an encoder."""
    encoder = {"encoder.input_layer.0.weight": torch.randn(4, 3, 3, 3), "encoder.styles.0.linear.bias": torch.randn(12)}
    decoder = {f"decoder.{name}": tensor for name, tensor in rosinality_state(generator).items()}
    saved = {"state_dict": OrderedDict({**encoder, **decoder}), "opts": {"output_size": 32, **options}}
    return saved if latent_avg is None else saved | {"latent_avg": latent_avg}


class Persistent:
    """Pickles as an object of torch_utils.persistence does: a call with source code, class name and attributes."""

    def __init__(self, class_name: str, **attributes: Any) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": class_name, "state": attributes}

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,), None


def nvidia_module(name: str, state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Persistent:
    """A module with the tensors under it; `settings` are attributes by dotted name."""
    children: dict[str, dict[str, Tensor]] = {}
    own: dict[str, Tensor] = {}
    for path, tensor in state.items():
        child, dot, rest = path.partition(".")
        if dot:
            children.setdefault(child, {})[rest] = tensor
        else:
            own[child] = tensor
    inner = {
        child: {k.removeprefix(f"{child}."): v for k, v in settings.items() if k.startswith(f"{child}.")}
        for child in children
    }
    buffers = ("noise_const", "resample_filter", "w_avg")
    return Persistent(
        name,
        **{key: value for key, value in settings.items() if "." not in key},
        training=False,
        _parameters=OrderedDict((key, nn.Parameter(t, False)) for key, t in own.items() if key not in buffers),
        _buffers=OrderedDict((key, t) for key, t in own.items() if key in buffers),
        _non_persistent_buffers_set=set(),
        _forward_hooks=OrderedDict(),
        _modules=OrderedDict((key, nvidia_module(key, inside, inner[key])) for key, inside in children.items()),
    )


def nvidia_state(network: Generator | Discriminator) -> dict[str, Tensor]:
    """With the buffers of its resampling filters, and convolutions of the upper layers in channels-last order."""
    state = dict(network.state_dict())
    for name in list(state):
        if name.endswith(("conv0.weight", "conv1.weight", "skip.weight")):
            state[f"{name.removesuffix('weight')}resample_filter"] = FIR
        if state[name].dim() == 4 and state[name].shape[2] == 3:
            state[name] = state[name].contiguous(memory_format=torch.channels_last)
    return state


def nvidia_pickle(generator: Generator, discriminator: Discriminator | None = None, **changed: Any) -> dict[str, Any]:
    """What its training loop pickles."""
    clamp = generator.config.conv_clamp
    convolutions = [name.rpartition(".")[0] for name in generator.state_dict() if name.endswith("noise_strength")]
    settings: dict[str, Any] = {"z_dim": generator.config.z_dim, "c_dim": 0, "mapping.fc0.bias_gain": 0.01}
    for name in convolutions:
        settings |= {f"{name}.conv_clamp": clamp, f"{name}.activation": "lrelu", f"{name}.up": 1}
        block = name.rpartition(".")[0]
        settings |= {f"{block}.architecture": "skip", f"{block}.torgb.conv_clamp": clamp}
    state = nvidia_state(generator)
    easy = sys.modules["dnnlib.util"].EasyDict
    saved = {
        "G": nvidia_module("Generator", {name: torch.zeros_like(t) for name, t in state.items()}, settings),
        "G_ema": nvidia_module("Generator", state, settings | changed),
        "augment_pipe": None,
        "training_set_kwargs": easy(class_name="training.dataset.ImageFolderDataset", max_size=70000),
    }
    if discriminator is not None:
        names = [name.rpartition(".")[0] for name in discriminator.state_dict() if ".conv" in name or "fromrgb" in name]
        told: dict[str, Any] = {f"{name}.conv_clamp": discriminator.config.conv_clamp for name in names}
        told |= {f"{name.partition('.')[0]}.skip.conv_clamp": None for name in names if not name.startswith("b4")}
        saved["D"] = nvidia_module("Discriminator", nvidia_state(discriminator), told)
    return saved


@contextmanager
def nvidia_names() -> Iterator[None]:
    """While it lasts, pickle finds the names of NVIDIA's code, as in a process that trains."""

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("the source code of a pickle would be executed")

    class EasyDict(dict):  # type: ignore[type-arg]
        pass

    made: dict[str, dict[str, Any]] = {
        "torch_utils": {},
        "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
        "dnnlib": {},
        "dnnlib.util": {"EasyDict": EasyDict},
    }
    for module, names in made.items():
        sys.modules[module] = types.ModuleType(module)
        for name, value in names.items():
            value.__module__, value.__qualname__ = module, name
            setattr(sys.modules[module], name, value)
    try:
        yield
    finally:
        for module in made:
            del sys.modules[module]


def write_nvidia(path: Path, generator: Generator, discriminator: Discriminator | None = None, **changed: Any) -> Path:
    with nvidia_names(), path.open("wb") as file:
        pickle.dump(nvidia_pickle(generator, discriminator, **changed), file)
    return path
