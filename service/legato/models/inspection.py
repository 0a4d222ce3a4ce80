"""What is in a model file, without reading its weights: container, networks, entries, tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from legato.errors import ModelFileError
from legato.models import formats
from legato.models.containers import Content, Inert, PersistentObject, Source, StoredTensor, read_content
from legato.models.containers.source import MAX_DEPTH
from legato.models.files import FORMAT, parse_header

MAX_VISITS = 200_000  # of entries that hold each other
MAX_TEXT = 120  # characters of a value


def inspect(path: str | Path) -> dict[str, Any]:
    """The report, JSON values alone. `problem` tells why no network can be loaded, None if one can.

    Raises ModelFileError where the file cannot be read at all.
    """
    with Source(Path(path)) as source:
        content = read_content(source)
        report: dict[str, Any] = {
            "file": str(path),
            "bytes": source.size,
            "container": content.container,
            "format": None,
            "networks": {},
            "metadata": {name: _text(value) for name, value in content.metadata.items() if name != FORMAT},
            "entries": _entries(content.tree),
            "tensors": [
                {"name": name, "shape": list(tensor.stored_shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
                for name, tensor in _tensors(content.tree)
            ],
            "problem": None,
        }
        try:
            report |= _own(content) if FORMAT in content.metadata else _foreign(content)
        except ModelFileError as error:
            report["problem"] = str(error)
    return report


def _own(content: Content) -> dict[str, Any]:
    header = parse_header(content.source.path, content.metadata[FORMAT])
    size = sum(math.prod(tensor.stored_shape) for tensor in content.tree.values())
    told = {"architecture": dict(header.config), "tensors": len(content.tree), "parameters": size, "notes": []}
    return {
        "format": "legato",
        "networks": {header.kind: told},
        "digest": header.digest,
        "license": header.recipe.get("license"),
        "recipe": dict(header.recipe),
    }


def _foreign(content: Content) -> dict[str, Any]:
    checkpoint = formats.recognize(content)
    networks: dict[str, Any] = {}
    report = {"format": checkpoint.format, "networks": networks, "others": list(checkpoint.others)}
    for name, network, plan in (
        ("generator", checkpoint.generator, formats.plan_generator),
        ("discriminator", checkpoint.discriminator, formats.plan_discriminator),
    ):
        if network is None:
            continue
        told = _network(network.tensors.values()) | {"notes": list(network.notes)}
        try:
            told["architecture"] = dataclasses.asdict(plan(network).config)
        except ModelFileError as error:
            report["problem"] = str(error)
        networks[name] = told
    if checkpoint.encoder is not None:
        options = {name: _text(value) for name, value in checkpoint.encoder.options.items()}
        networks["encoder"] = _network(checkpoint.encoder.tensors.values()) | {"options": options, "notes": []}
    return report


def _network(tensors: Any) -> dict[str, Any]:
    found = list(tensors)
    return {"tensors": len(found), "parameters": sum(math.prod(tensor.stored_shape) for tensor in found)}


def _entries(tree: Any) -> dict[str, str]:
    """What stands at the top, each in a few words."""
    if type(tree) is not dict:
        return {"": _text(tree)}
    return {_text(name): _text(value) for name, value in tree.items() if not isinstance(value, StoredTensor)}


def _tensors(tree: Any) -> Iterator[tuple[str, StoredTensor]]:
    """Every tensor by its dotted name; those of an entry that holds itself, as often as the limits allow."""
    waiting, visits = [("", tree, 0)], 0
    while waiting and visits < MAX_VISITS:
        name, value, depth = waiting.pop()
        visits += 1
        if isinstance(value, StoredTensor):
            yield name, value
        if isinstance(value, PersistentObject):
            value = {key: part for table in _tables(value) for key, part in table.items()}
        elif type(value) in (list, tuple):
            value = dict(enumerate(value))
        if type(value) is dict and depth < MAX_DEPTH:
            prefix = f"{name}." if name else ""
            parts = [(f"{prefix}{_text(key)}"[:1024], part, depth + 1) for key, part in value.items()]
            waiting += reversed(parts[:MAX_VISITS])


def _tables(saved: PersistentObject) -> Iterator[dict[Any, Any]]:
    for name in ("_parameters", "_buffers", "_modules"):
        table = saved.state.get(name)
        if type(table) is dict:
            yield table


def _text(value: Any) -> str:
    """A foreign value in a few words, safe to print."""
    if isinstance(value, StoredTensor):
        return f"tensor {list(value.stored_shape)}"
    if isinstance(value, PersistentObject):
        return f"network {_text(value.class_name)}"
    if isinstance(value, Inert):
        return value.name
    if type(value) in (dict, list, tuple, set, frozenset):
        return f"{type(value).__name__} of {len(value)}"
    if type(value) is str:
        return value if value.isprintable() and len(value) <= MAX_TEXT else repr(value[:MAX_TEXT])
    return repr(value)[:MAX_TEXT] if type(value) in (int, float, bool, type(None)) else type(value).__name__
