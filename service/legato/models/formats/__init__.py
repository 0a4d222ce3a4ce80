"""Checkpoints of other code bases, one format a module, each read to the one naming.

A format is a module here with `TITLE`, `recognize(content) -> bool` and `read(content) -> Checkpoint`; it is found by
its file. No code of a checkpoint is ever executed: see `legato.models.containers`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from legato.models.containers import Content, Source, StoredTensor, read_content
from legato.models.discriminator import Discriminator
from legato.models.formats._network import (
    Checkpoint,
    EncoderState,
    Network,
    build_discriminator,
    build_generator,
    plan_discriminator,
    plan_generator,
    refuse_other_architectures,
)
from legato.models.generator import Generator

__all__ = [
    "Checkpoint",
    "EncoderState",
    "Network",
    "build_discriminator",
    "build_generator",
    "formats",
    "open_checkpoint",
    "plan_discriminator",
    "plan_generator",
    "read_discriminator",
    "read_generator",
]


class Format(Protocol):
    """What a module of this package has."""

    TITLE: str

    def recognize(self, content: Content) -> bool: ...

    def read(self, content: Content) -> Checkpoint: ...


@cache
def formats() -> tuple[Any, ...]:
    """The modules of this package that are formats, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in names)


@contextmanager
def open_checkpoint(path: str | Path) -> Iterator[tuple[Content, Checkpoint]]:
    """What is in a file: its structure, and its networks, whose tensors can be read while the context lasts.

    Raises ModelFileError, which tells what the file is and what to do.
    """
    with Source(Path(path)) as source:
        content = read_content(source)
        yield content, recognize(content)


def recognize(content: Content) -> Checkpoint:
    """The networks by the first format that knows them. Raises ModelFileError."""
    for module in formats():
        if module.recognize(content):
            checkpoint: Checkpoint = module.read(content)
            return checkpoint
    refuse_other_architectures(content.source, _names(content.tree))
    known = "; ".join(module.TITLE for module in formats())
    raise content.source.refusal(
        f"holds no StyleGAN2 network under names that legato knows ({content.container}). Known are: {known}. "
        "`legato inspect` lists what is in it"
    )


def read_generator(path: str | Path) -> tuple[Generator, Checkpoint]:
    """The generator of a checkpoint: float32, evaluation mode, no gradients to weights. Raises ModelFileError."""
    with open_checkpoint(path) as (content, checkpoint):
        if checkpoint.generator is None:
            raise content.source.refusal(f"({checkpoint.format}) holds no generator. Give a file that has one")
        return build_generator(checkpoint.generator), checkpoint


def read_discriminator(path: str | Path) -> tuple[Discriminator, Checkpoint]:
    """The discriminator of a checkpoint, as read_generator."""
    with open_checkpoint(path) as (content, checkpoint):
        if checkpoint.discriminator is None:
            raise content.source.refusal(f"({checkpoint.format}) holds no discriminator. Give a file that has one")
        return build_discriminator(checkpoint.discriminator), checkpoint


def _names(tree: Any) -> list[str]:
    """Names of tensors at the top of a tree and one table below it."""
    if type(tree) is not dict:
        return []
    tables = [tree, *(value for value in tree.values() if type(value) is dict)]
    pairs = [pair for table in tables for pair in table.items()]
    return [name for name, value in pairs if type(name) is str and isinstance(value, StoredTensor)]
