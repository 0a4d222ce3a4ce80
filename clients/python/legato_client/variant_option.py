"""`--variant`: further edited outputs of the command, each a file or folder beside the first."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from legato_client.errors import InvalidEdit
from legato_client.images import Image
from legato_client.media import FolderSink, MediaError, Shot, Sink, Source, open_sink
from legato_client.types import Edit

Named = tuple[str, tuple[Edit, ...]]


def add_variant_option(parser: argparse.ArgumentParser) -> None:
    """The option; its values are names ("" for none) and edits."""
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        type=variant_argument,
        metavar="[NAME:]NAME=STRENGTH,...",
        help="one more edited output, written beside OUT as OUT.NAME or OUT.1, OUT.2; may be repeated",
    )


def variant_argument(text: str) -> Named:
    """smile=2,yaw=-1 or happy:smile=2, for argparse."""
    name, colon, rest = text.rpartition(":")
    edits = []
    try:
        if colon and not re.fullmatch(r"[\w.-]+", name):
            raise ValueError
        for part in rest.split(","):
            direction, _, strength = part.partition("=")
            edits.append(Edit(direction.strip(), float(strength)))
    except (ValueError, InvalidEdit):
        raise argparse.ArgumentTypeError(
            f"a variant is its edits, after a name if wanted, as in smile=2,yaw=-1 or happy:smile=2; got {text!r}"
        ) from None
    return name, tuple(edits)


def named(variants: Sequence[Named]) -> dict[str, tuple[Edit, ...]]:
    """Variants by name, those without one by their number. Raises MediaError where two would be one file."""
    found = {name or str(number): edits for number, (name, edits) in enumerate(variants, 1)}
    if len(found) < len(variants):
        raise MediaError("two --variant have the same name, and would be one file: name them differently")
    return found


def beside(path: Path, name: str) -> Path:
    """Where a variant of the output goes: out.mp4 -> out.happy.mp4."""
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


class Sinks:
    """The clip to write, and one beside it for each variant."""

    def __init__(
        self,
        output: Path,
        variants: Sequence[str],
        rate: Fraction,
        tick: Fraction,
        sound_of: Source | None = None,
    ) -> None:
        self.paths = {name: beside(output, name) for name in variants}
        self._first = open_sink(output, rate, tick, sound_of)
        folder = isinstance(self._first, FolderSink)  # its name may look like that of a file: out.happy
        self._others: dict[str, Sink] = {
            name: FolderSink(path) if folder else open_sink(path, rate, tick, sound_of)
            for name, path in self.paths.items()
        }
        self.format = self._first.format
        self._stack = ExitStack()

    @property
    def note(self) -> str:
        """What could not be written."""
        return self._first.note

    def write(self, image: Image, variants: Mapping[str, Image], shot: Shot) -> None:
        self._first.write(image, shot)
        for name, sink in self._others.items():
            sink.write(variants[name], shot)

    def __enter__(self) -> Self:
        for sink in (self._first, *self._others.values()):
            self._stack.enter_context(sink)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
