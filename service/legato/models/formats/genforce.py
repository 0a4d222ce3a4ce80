"""GenForce `.pth` (genforce/genforce, SeFa, and what descends from them): `generator_smooth`, or else `generator`.

Its convolutions that double the resolution are stored turned by 180 degrees, its styles without the 1 that is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from legato.models.containers import Content, StoredTensor, flatten
from legato.models.formats._network import W_AVG, Checkpoint, Network, Rule, rename

TITLE = "GenForce"
GENERATORS = ("generator_smooth", "generator")
MAX_DOUBLINGS = 10


def recognize(content: Content) -> bool:
    return bool(_key(content.tree))


def read(content: Content) -> Checkpoint:
    source, key = content.source, _key(content.tree)
    found = flatten(source, content.tree[key], f"{key}.")
    depth = sum(1 for i in range(len(found)) if f"mapping.dense{i}.weight" in found)
    outputs = sum(1 for i in range(len(found)) if f"synthesis.output{i}.weight" in found)
    tensors = rename(source, found, rules(depth, min(max(outputs - 1, 0), MAX_DOUBLINGS)))
    notes = () if key == GENERATORS[0] else ("without generator_smooth; the generator of the training itself",)
    others = tuple(sorted(str(name) for name in content.tree if name != key))
    return Checkpoint(TITLE, Network(source, tensors, notes=notes), others=others)


def rules(depth: int, doublings: int) -> Iterator[Rule]:
    """Of a mapping network of `depth` layers and a synthesis network of `doublings` blocks above 4 pixels."""
    for i in range(depth):
        for part in ("weight", "bias"):
            yield f"mapping.dense{i}.{part}", f"mapping.fc{i}.{part}", ()
    yield "truncation.w_avg", W_AVG, (_first_row,)
    yield "synthesis.early_layer.const", "synthesis.b4.const", (_without_batch,)
    for number in range(2 * doublings + 1):
        up = number % 2 == 1
        theirs, ours = f"synthesis.layer{number}", f"synthesis.b{4 << (number + 1) // 2}.conv{0 if up else 1}"
        yield f"{theirs}.weight", f"{ours}.weight", (_turned,) if up else ()
        yield f"{theirs}.noise", f"{ours}.noise_const", (_plane,)
        yield f"{theirs}.noise_strength", f"{ours}.noise_strength", (_number,)
        yield from _style_and_bias(theirs, ours)
        if up:
            yield f"{theirs}.filter.kernel", "", ()
    for level in range(doublings + 1):
        theirs, ours = f"synthesis.output{level}", f"synthesis.b{4 << level}.torgb"
        yield f"{theirs}.weight", f"{ours}.weight", ()
        yield from _style_and_bias(theirs, ours)
    yield "synthesis.upsample.kernel", "", ()


def _style_and_bias(theirs: str, ours: str) -> Iterator[Rule]:
    yield f"{theirs}.bias", f"{ours}.bias", ()
    yield f"{theirs}.style.weight", f"{ours}.affine.weight", ()
    yield f"{theirs}.style.bias", f"{ours}.affine.bias", (_plus_one,)


def _key(tree: Any) -> str:
    for key in GENERATORS:
        table = tree.get(key) if type(tree) is dict else None
        if type(table) is dict and isinstance(table.get("synthesis.early_layer.const"), StoredTensor):
            return key
    return ""


def _turned(weight: Tensor) -> Tensor:
    """[O, I, 3, 3], correlated instead of convolved."""
    return weight.flip((2, 3))


def _plus_one(bias: Tensor) -> Tensor:
    return bias.float() + 1.0


def _first_row(average: Tensor) -> Tensor:
    """w [D] of [D] or, one for each layer, [L, D]."""
    return average if average.dim() == 1 else average[0]


def _without_batch(tensor: Tensor) -> Tensor:
    return tensor.squeeze(0)


def _plane(noise: Tensor) -> Tensor:
    """[1, 1, r, r] -> [r, r]."""
    return noise.squeeze(0).squeeze(0)


def _number(strength: Tensor) -> Tensor:
    return strength.squeeze()
