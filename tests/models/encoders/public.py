"""pSp and e4e as their public state dicts describe them: names and shapes, and the arithmetic, written out plainly."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def units(width: int) -> Iterator[tuple[int, int, int]]:
    """Channels in, channels out and stride of the 24 units of IR-SE-50."""
    before = width
    for stage, count in enumerate((3, 4, 14, 3)):
        for i in range(count):
            after = width * 2**stage
            yield before, after, 2 if i == 0 else 1
            before = after


def convolutions(head: int) -> int:
    """Of one head: down to a pixel from 16, 32 or 64."""
    return 4 if head < 3 else 5 if head < 7 else 6


def shapes(heads: int, width: int = 64) -> dict[str, tuple[int, ...]]:
    """Every tensor of the encoder without its prefix."""
    found: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{part}"] = (channels,)
        found[f"{name}.num_batches_tracked"] = ()

    found["input_layer.0.weight"] = (width, 3, 3, 3)
    norm("input_layer.1", width)
    found["input_layer.2.weight"] = (width,)
    for i, (before, after, _) in enumerate(units(width)):
        name = f"body.{i}"
        if i in (3, 7, 21):
            found[f"{name}.shortcut_layer.0.weight"] = (after, before, 1, 1)
            norm(f"{name}.shortcut_layer.1", after)
        norm(f"{name}.res_layer.0", before)
        found[f"{name}.res_layer.1.weight"] = (after, before, 3, 3)
        found[f"{name}.res_layer.2.weight"] = (after,)
        found[f"{name}.res_layer.3.weight"] = (after, after, 3, 3)
        norm(f"{name}.res_layer.4", after)
        found[f"{name}.res_layer.5.fc1.weight"] = (after // 16, after, 1, 1)
        found[f"{name}.res_layer.5.fc2.weight"] = (after, after // 16, 1, 1)
    dim = 8 * width
    for i in range(heads):
        for k in range(convolutions(i)):
            found[f"styles.{i}.convs.{2 * k}.weight"] = (dim, dim, 3, 3)
            found[f"styles.{i}.convs.{2 * k}.bias"] = (dim,)
        found[f"styles.{i}.linear.weight"] = (dim, dim)
        found[f"styles.{i}.linear.bias"] = (dim,)
    for name, before in (("latlayer1", 4 * width), ("latlayer2", 2 * width)):
        found[f"{name}.weight"] = (dim, before, 1, 1)
        found[f"{name}.bias"] = (dim,)
    return found


@cache
def random_state(heads: int, width: int = 16, seed: int = 0) -> State:
    """Random weights that keep the size of what they see; statistics of normalization that are not 0 and 1."""
    random = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in shapes(heads, width).items():
        drawn = torch.randn(shape, generator=random)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith(("0.weight", "1.weight", "4.weight"))):
            state[name] = 1 + 0.2 * drawn.tanh()
        elif len(shape) == 4:
            state[name] = drawn * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        else:
            state[name] = drawn if "linear.weight" in name else 0.2 * drawn
    return state


def checkpoint(path: Path, state: State, latent_avg: Tensor | None, **opts: Any) -> Path:
    """Saved as pSp and e4e save it, without a decoder."""
    saved: dict[str, Any] = {"state_dict": {f"encoder.{name}": t for name, t in state.items()}, "opts": opts}
    torch.save(saved if latent_avg is None else saved | {"latent_avg": latent_avg}, path)
    return path


def codes(state: State, image: Tensor, heads: int, *, progressive: bool) -> Tensor:
    """Codes [B, heads, D] float64 of images [B, 3, 256, 256], without the mean latent."""
    state = {name: tensor.double() for name, tensor in state.items()}
    image = image.double()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def prelu(x: Tensor, name: str) -> Tensor:
        return torch.where(x > 0, x, state[f"{name}.weight"][:, None, None] * x)

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)

    x = prelu(norm(conv(image, "input_layer.0"), "input_layer.1"), "input_layer.2")
    taps = {}
    for i, (_, _, stride) in enumerate(units(len(state["input_layer.0.weight"]))):
        name = f"body.{i}"
        y = conv(norm(x, f"{name}.res_layer.0"), f"{name}.res_layer.1")
        y = conv(prelu(y, f"{name}.res_layer.2"), f"{name}.res_layer.3", stride)
        y = norm(y, f"{name}.res_layer.4")
        squeezed = conv(F.adaptive_avg_pool2d(y, 1), f"{name}.res_layer.5.fc1").clamp(min=0)
        y = y * torch.sigmoid(conv(squeezed, f"{name}.res_layer.5.fc2"))
        if f"{name}.shortcut_layer.0.weight" in state:
            x = norm(conv(x, f"{name}.shortcut_layer.0", stride), f"{name}.shortcut_layer.1")
        else:
            x = F.max_pool2d(x, 1, stride)
        taps[i] = x = x + y

    def upsampled(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    coarse = taps[23]
    middle = upsampled(coarse) + conv(taps[20], "latlayer1")
    fine = upsampled(middle) + conv(taps[6], "latlayer2")
    rows: list[Tensor] = []
    for i in range(heads):
        h = coarse if i < 3 else middle if i < 7 else fine
        for k in range(convolutions(i)):
            h = F.leaky_relu(conv(h, f"styles.{i}.convs.{2 * k}", 2), 0.01)
        weight = state[f"styles.{i}.linear.weight"]
        row = h.flatten(1) @ weight.T / weight.shape[1] ** 0.5 + state[f"styles.{i}.linear.bias"]
        rows.append(rows[0] + row if progressive and rows else row)
    return torch.stack(rows, 1)
