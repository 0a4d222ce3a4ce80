"""NVIDIA's pickles (stylegan2-ada-pytorch, stylegan3) that hold StyleGAN2 networks: G, D, G_ema.

A network is saved as an object of torch_utils.persistence: source code, class name and attributes. The code is dropped
unread; tensors and settings are found in the attributes, which are those of torch modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from legato.models.containers import Content, PersistentObject, Source, StoredTensor, excerpt
from legato.models.containers.source import MAX_DEPTH
from legato.models.formats._network import Checkpoint, Network, refuse_other_architectures
from legato.models.formats.nvidia_state import without_filters

TITLE = "NVIDIA's pickle (stylegan2-ada-pytorch, stylegan3)"
GENERATORS, DISCRIMINATOR = ("G_ema", "G"), "D"


def recognize(content: Content) -> bool:
    return _networks(content.tree) != {}


def read(content: Content) -> Checkpoint:
    source, found = content.source, _networks(content.tree)
    generator = next((found[name] for name in GENERATORS if name in found), None)
    notes = () if "G_ema" in found or generator is None else ("without G_ema; the generator G of the training itself",)
    name = next((name for name in GENERATORS if name in found), "")
    others = tuple(sorted(str(key) for key in content.tree if key not in (name, DISCRIMINATOR)))
    return Checkpoint(
        TITLE,
        None if generator is None else _generator(source, name, generator, notes),
        _discriminator(source, found[DISCRIMINATOR]) if DISCRIMINATOR in found else None,
        others=others,
    )


def _networks(tree: Any) -> dict[str, PersistentObject]:
    if type(tree) is not dict:
        return {}
    return {name: tree[name] for name in (*GENERATORS, DISCRIMINATOR) if isinstance(tree.get(name), PersistentObject)}


def _generator(source: Source, name: str, saved: PersistentObject, notes: tuple[str, ...]) -> Network:
    tensors, settings = _walk(source, saved, name)
    refuse_other_architectures(source, tensors)
    _check(source, settings, "activation", ("lrelu", "linear"))
    _check(source, settings, "architecture", ("skip",))
    labels = settings.get("c_dim")
    if labels not in (None, 0):
        raise source.refusal(
            f"holds a generator that is conditional on {excerpt(labels)} labels, which legato cannot invert. Give one "
            "trained without --cond"
        )
    multiplier = settings.get("mapping.fc0.bias_gain", 0.01)
    if type(multiplier) not in (int, float):
        raise source.damaged("the mapping network has no learning rate")
    kept = without_filters(source, tensors)
    return Network(source, kept, _clamp(source, settings), float(multiplier), notes)


def _discriminator(source: Source, saved: PersistentObject) -> Network:
    tensors, settings = _walk(source, saved, DISCRIMINATOR)
    _check(source, settings, "architecture", ("resnet",))
    return Network(source, without_filters(source, tensors), _clamp(source, settings))


def _walk(source: Source, saved: PersistentObject, prefix: str) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Tensors and plain attributes of a module and those inside it, by their dotted names."""
    tensors: dict[str, StoredTensor] = {}
    settings: dict[str, Any] = {}
    for path, state in _modules(source, saved, (), 0):
        for key, value in state.items():
            if type(key) is str and not key.startswith("_") and type(value) in (int, float, str, bool, type(None)):
                settings[".".join((*path, key))] = value
        for table in (state.get("_parameters"), state.get("_buffers")):
            for key, tensor in (table if type(table) is dict else {}).items():
                if tensor is None:
                    continue
                if type(key) is not str or not isinstance(tensor, StoredTensor):
                    raise source.damaged("a module in it has a parameter that is no tensor")
                name = ".".join((*path, key))
                tensors[name] = replace(tensor, name=f"{prefix}.{name}")
    return tensors, settings


def _modules(
    source: Source, saved: PersistentObject, path: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    source.count(opcodes=1)  # modules that hold each other would be walked for ever
    if depth > MAX_DEPTH:
        raise source.refusal("is nested deeper than any checkpoint. Fetch or save it again")
    yield path, saved.state
    children = saved.state.get("_modules")
    for name, child in (children if type(children) is dict else {}).items():
        if child is None:
            continue
        if type(name) is not str or not isinstance(child, PersistentObject):
            raise source.refusal("holds a module that is not one of NVIDIA's StyleGAN2. Give an unchanged network")
        yield from _modules(source, child, (*path, name), depth + 1)


def _check(source: Source, settings: dict[str, Any], setting: str, wanted: tuple[str, ...]) -> None:
    for name, value in settings.items():
        if name.rpartition(".")[2] == setting and value not in wanted:
            raise source.refusal(
                f"holds a network of {setting} {excerpt(value)}; {' or '.join(wanted)} is what StyleGAN2 has. Other "
                "variants cannot be read"
            )


def _clamp(source: Source, settings: dict[str, Any]) -> float | None:
    clamped = {name: value for name, value in settings.items() if name.rpartition(".")[2] == "conv_clamp"}
    found = {value for name, value in clamped.items() if ".skip." not in name}  # which is never clamped
    if len(found) > 1 or not all(value is None or type(value) in (int, float) for value in found):
        raise source.refusal("clamps its layers differently, which is not supported. Give a network of one conv_clamp")
    clamp = found.pop() if found else None
    return None if clamp is None else float(clamp)
