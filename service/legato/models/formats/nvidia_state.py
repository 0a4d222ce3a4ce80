"""A bare state dict under NVIDIA's names: `G_ema.state_dict()` of stylegan2-ada-pytorch, in any
container."""

from __future__ import annotations

from collections.abc import Mapping

from legato.models.containers import Content, Source, StoredTensor, flatten
from legato.models.formats._network import Checkpoint, Network, check_filter

TITLE = "state dict under NVIDIA's names"


def recognize(content: Content) -> bool:
    tree = content.tree
    return type(tree) is dict and ("synthesis.b4.const" in tree or "synthesis.input.weight" in tree)


def read(content: Content) -> Checkpoint:
    tensors = without_filters(content.source, flatten(content.source, content.tree))
    note = "the file does not say whether activations are clamped (conv_clamp); taken as not clamped"
    return Checkpoint(TITLE, Network(content.source, tensors, notes=(note,)))


def without_filters(source: Source, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Without the resampling filters, once they are checked."""
    kept = {}
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] == "resample_filter":
            check_filter(source, tensor)
        else:
            kept[name] = tensor
    return kept
