"""rosinality/stylegan2-pytorch `.pt`: `g_ema` with or without `latent_avg`, and training checkpoints with optimizers.

Its names run over all layers; an even index of `convs` is the convolution that doubles the resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from legato.models.containers import Content, Source, StoredTensor, flatten
from legato.models.formats._network import W_AVG, Checkpoint, Network, Rule, rename

TITLE = "rosinality/stylegan2-pytorch"
GENERATORS, DISCRIMINATOR, AVERAGE = ("g_ema", "g"), "d", "latent_avg"


def recognize(content: Content) -> bool:
    return bool(_generator_key(content.tree)) or _is_generator(content.tree)


def read(content: Content) -> Checkpoint:
    source, tree = content.source, content.tree
    if _is_generator(tree):
        return Checkpoint(TITLE, read_network(source, flatten(source, tree), None))
    key = _generator_key(tree)
    notes = () if key == "g_ema" else ("without g_ema; the generator g of the training itself",)
    discriminator = None
    if _has(tree.get(DISCRIMINATOR), "final_linear.1.weight"):
        discriminator = Network(source, _discriminator(source, flatten(source, tree[DISCRIMINATOR], "d.")))
    others = tuple(sorted(str(name) for name in tree if name not in (key, AVERAGE, DISCRIMINATOR)))
    generator = read_network(source, flatten(source, tree[key], f"{key}."), tree.get(AVERAGE), notes)
    return Checkpoint(TITLE, generator, discriminator, others=others)


def read_network(
    source: Source, found: Mapping[str, StoredTensor], average: Any, notes: tuple[str, ...] = ()
) -> Network:
    """A generator under rosinality's names. Raises ModelFileError."""
    depth = sum(1 for i in range(len(found)) if f"style.{i + 1}.weight" in found)
    doublings = sum(1 for i in range(len(found)) if f"to_rgbs.{i}.conv.weight" in found)
    tensors = rename(source, found, rules(depth, min(doublings, 9)))
    if isinstance(average, StoredTensor):
        tensors[W_AVG] = average.then(first_row)
    else:
        notes += ("without latent_avg; the mean of w over 8192 random z stands for it",)
    return Network(source, tensors, notes=notes)


def rules(depth: int, doublings: int) -> Iterator[Rule]:
    """Of a mapping network of `depth` layers and a synthesis network of `doublings` blocks above 4 pixels."""
    for i in range(depth):
        for part in ("weight", "bias"):
            yield f"style.{i + 1}.{part}", f"mapping.fc{i}.{part}", ()
    yield "input.input", "synthesis.b4.const", (_first,)
    yield from _layer("conv1", "synthesis.b4.conv1", 0)
    yield from _to_rgb("to_rgb1", "synthesis.b4.torgb")
    for k in range(1, doublings + 1):
        block = f"synthesis.b{4 << k}"
        yield from _layer(f"convs.{2 * k - 2}", f"{block}.conv0", 2 * k - 1)
        yield from _layer(f"convs.{2 * k - 1}", f"{block}.conv1", 2 * k)
        yield from _to_rgb(f"to_rgbs.{k - 1}", f"{block}.torgb")
        yield f"convs.{2 * k - 2}.conv.blur.kernel", "", ()
        yield f"to_rgbs.{k - 1}.upsample.kernel", "", ()


def _layer(theirs: str, ours: str, noise: int) -> Iterator[Rule]:
    yield f"{theirs}.conv.weight", f"{ours}.weight", (_first,)
    yield f"{theirs}.conv.modulation.weight", f"{ours}.affine.weight", ()
    yield f"{theirs}.conv.modulation.bias", f"{ours}.affine.bias", ()
    yield f"{theirs}.noise.weight", f"{ours}.noise_strength", (_first,)
    yield f"{theirs}.activate.bias", f"{ours}.bias", ()
    yield f"noises.noise_{noise}", f"{ours}.noise_const", (_first, _first)


def _to_rgb(theirs: str, ours: str) -> Iterator[Rule]:
    yield f"{theirs}.conv.weight", f"{ours}.weight", (_first,)
    yield f"{theirs}.conv.modulation.weight", f"{ours}.affine.weight", ()
    yield f"{theirs}.conv.modulation.bias", f"{ours}.affine.bias", ()
    yield f"{theirs}.bias", f"{ours}.bias", (_column,)


def _discriminator(source: Source, found: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    blocks = min(sum(1 for i in range(len(found)) if f"convs.{i + 1}.conv1.0.weight" in found), 9)
    return rename(source, found, _discriminator_rules(blocks))


def _discriminator_rules(blocks: int) -> Iterator[Rule]:
    top = 4 << blocks
    yield "convs.0.0.weight", f"b{top}.fromrgb.weight", ()
    yield "convs.0.1.bias", f"b{top}.fromrgb.bias", ()
    for i in range(1, blocks + 1):
        theirs, ours = f"convs.{i}", f"b{top >> (i - 1)}"
        yield f"{theirs}.conv1.0.weight", f"{ours}.conv0.weight", ()
        yield f"{theirs}.conv1.1.bias", f"{ours}.conv0.bias", ()
        yield f"{theirs}.conv2.0.kernel", "", ()
        yield f"{theirs}.conv2.1.weight", f"{ours}.conv1.weight", ()
        yield f"{theirs}.conv2.2.bias", f"{ours}.conv1.bias", ()
        yield f"{theirs}.skip.0.kernel", "", ()
        yield f"{theirs}.skip.1.weight", f"{ours}.skip.weight", ()
    yield "final_conv.0.weight", "b4.conv.weight", ()
    yield "final_conv.1.bias", "b4.conv.bias", ()
    for i, name in enumerate(("fc", "out")):
        for part in ("weight", "bias"):
            yield f"final_linear.{i}.{part}", f"b4.{name}.{part}", ()


def _generator_key(tree: Any) -> str:
    found = [key for key in GENERATORS if type(tree) is dict and _is_generator(tree.get(key))]
    return found[0] if found else ""


def _is_generator(table: Any) -> bool:
    return _has(table, "input.input", "conv1.conv.weight")


def _has(table: Any, *names: str) -> bool:
    return type(table) is dict and all(isinstance(table.get(name), StoredTensor) for name in names)


def first_row(tensor: Tensor) -> Tensor:
    """w [D] of [D] or, one for each layer, [L, D]."""
    return tensor if tensor.dim() == 1 else tensor[0]


def _first(tensor: Tensor) -> Tensor:
    """Without its first dimension, which is 1."""
    return tensor.squeeze(0)


def _column(tensor: Tensor) -> Tensor:
    """[1, C, 1, 1] -> [C]."""
    return tensor.squeeze(0).squeeze(-1).squeeze(-1)
