"""pixel2style2pixel and encoder4editing `.pt`: an encoder, rosinality's generator as its decoder, and latent_avg.

The encoder's tensors keep the names of those code bases; `legato.models.encoders` knows what to do with them.
"""

from __future__ import annotations

from typing import Any

from legato.models.containers import Content, StoredTensor, excerpt, flatten
from legato.models.formats._network import Checkpoint, EncoderState
from legato.models.formats.rosinality import read_network

TITLE = "pSp / e4e"
STATE, OPTIONS, AVERAGE = "state_dict", "opts", "latent_avg"
DECODER, ENCODER = "decoder.", "encoder."


def recognize(content: Content) -> bool:
    state = content.tree.get(STATE) if type(content.tree) is dict else None
    return type(state) is dict and any(type(name) is str and name.startswith((DECODER, ENCODER)) for name in state)


def read(content: Content) -> Checkpoint:
    source, tree = content.source, content.tree
    parts: dict[str, dict[str, StoredTensor]] = {DECODER: {}, ENCODER: {}}
    for name, tensor in flatten(source, tree[STATE]).items():
        prefix = next((prefix for prefix in parts if name.startswith(prefix)), None)
        if prefix is None:
            raise source.refusal(f"holds {excerpt(name)}, which belongs to neither encoder nor decoder. Save it again")
        parts[prefix][name.removeprefix(prefix)] = tensor
    average = tree.get(AVERAGE)
    if average is not None and not isinstance(average, StoredTensor):
        raise source.damaged("its latent_avg is no tensor")
    return Checkpoint(
        TITLE,
        read_network(source, parts[DECODER], average) if parts[DECODER] else None,
        encoder=EncoderState(source, parts[ENCODER], _options(tree.get(OPTIONS)), average) if parts[ENCODER] else None,
        others=tuple(sorted(str(name) for name in tree if name not in (STATE, OPTIONS, AVERAGE))),
    )


def _options(given: Any) -> dict[str, Any]:
    """The plain values among the options of the training."""
    plain = (str, int, float, bool, type(None))
    found = given.items() if type(given) is dict else ()
    return {name: value for name, value in found if type(name) is str and type(value) in plain}
