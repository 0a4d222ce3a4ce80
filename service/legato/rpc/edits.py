"""Edits and variants of requests, checked: known directions, finite strengths, not too many, names that tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from legato.errors import InvalidEdit
from legato.options import Variant
from legato.types import Edit
from legato_pb import inversion_pb2 as pb

MAX_NAME = 64  # characters of a variant's name


@dataclass(frozen=True, slots=True)
class EditRules:
    """What a request may ask for. Every method raises InvalidEdit with the field that is wrong."""

    model: str
    directions: Sequence[str]
    max_edits: int  # of one image
    max_variants: int  # of one frame

    def edits(self, edits: Sequence[pb.Edit], field: str = "edits") -> tuple[Edit, ...]:
        """The edits of one image."""
        if len(edits) > self.max_edits:
            raise InvalidEdit(f"an image has at most {self.max_edits} edits; got {len(edits)}", field=field)
        found = []
        for index, edit in enumerate(edits):
            try:
                found.append(Edit(edit.direction, edit.strength))
            except InvalidEdit as error:
                error.field = f"{field}[{index}]"
                raise
            if edit.direction not in self.directions:
                known = ", ".join(self.directions) or "none"
                raise InvalidEdit(
                    f"unknown direction {edit.direction[:100]!r} of model {self.model!r}; known: {known}",
                    reason="UNKNOWN_DIRECTION",
                    field=f"{field}[{index}].direction",
                )
        return tuple(found)

    def variants(self, variants: Sequence[pb.Variant]) -> tuple[Variant, ...]:
        """The further edited images of one frame; one without a name is called by its number."""
        if len(variants) > self.max_variants:
            raise InvalidEdit(
                f"a frame has at most {self.max_variants} variants on this server; got {len(variants)}",
                field="variants",
            )
        found: dict[str, Variant] = {}
        for index, variant in enumerate(variants):
            field, name = f"variants[{index}]", variant.name or str(index + 1)
            if len(name) > MAX_NAME or not name.isprintable():
                raise InvalidEdit(
                    f"a variant's name is at most {MAX_NAME} characters that can be printed; got {name[:100]!r}",
                    field=f"{field}.name",
                )
            if name in found:
                raise InvalidEdit(
                    f"two variants are called {name!r}: give each a name of its own, or none for its number",
                    field=f"{field}.name",
                )
            if not variant.edits:
                raise InvalidEdit(
                    f"variant {name!r} has no edit, and would show the reconstruction; give it one, or leave it out",
                    field=f"{field}.edits",
                )
            found[name] = Variant(name, self.edits(variant.edits, f"{field}.edits"))
        return tuple(found.values())
