"""What a direction that was found without labels does, as an attribute network reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from legato.editing.directions import Directions
from legato.evaluation.editability import attribute_response
from legato.models.attributes import AttributeNetwork
from legato.models.generator import Generator
from legato.types import Edit

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Moved:
    """The attribute that a direction moves most, and how cleanly."""

    name: str  # of the direction
    attribute: str
    response: float  # of the attribute at the strength that was tried, in standard deviations; signed
    leakage: float  # mean absolute change of each other attribute
    second: str  # the attribute that it moves most beside
    second_response: float

    @property
    def selectivity(self) -> float:
        """Response per leakage: 1 moves everything alike."""
        return abs(self.response) / max(self.leakage, 1e-12)


@torch.no_grad()
def read_codes(generator: Generator, network: AttributeNetwork, latents: Tensor) -> Tensor:
    """Attributes [N, A] of the images of codes [N, L, D], in standard deviations."""
    return torch.cat([network.standardized(generator(c).clamp(-1, 1)) for c in latents.split(_BATCH)])


@torch.no_grad()
def moved_attributes(
    generator: Generator,
    network: AttributeNetwork,
    latents: Tensor,  # [N, L, D]
    directions: Directions,
    *,
    names: Sequence[str] | None = None,  # of directions; None: all
    strength: float = 2.0,
) -> list[Moved]:
    """Each direction is tried both ways on every code; responses are slopes over both, so what only ever changes one
    way (a code that leaves the domain) counts as leakage alone."""
    before = read_codes(generator, network, latents).repeat(2, 1)
    amount = torch.ones(len(before), device=before.device)
    amount[len(latents) :] = -1
    found = []
    for name in names or directions.names:
        edits = [(Edit(name, strength),)] * len(latents) + [(Edit(name, -strength),)] * len(latents)
        moved = torch.cat([latents, latents])
        parts = zip(moved.split(_BATCH), range(0, len(moved), _BATCH), strict=True)
        images = (directions.images(generator, part, edits[first : first + len(part)]) for part, first in parts)
        after = torch.cat([network.standardized(image.clamp(-1, 1)) for image in images])
        slopes = ((after - before) * amount[:, None]).mean(0)
        first, second = slopes.abs().argsort(descending=True)[:2].tolist()
        attribute = network.config.names[first]
        response = attribute_response(before, after, network.config.names, attribute, amount)
        found.append(
            Moved(
                name,
                attribute,
                response.response,
                response.leakage,
                network.config.names[second],
                float(slopes[second]),
            )
        )
    return found
