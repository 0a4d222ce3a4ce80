"""Directions from codes of two kinds, with and without an attribute: boundaries, and channels of the style space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from legato.editing.boundary import extremes, fit_boundary, project
from legato.editing.directions import Directions, unmeasured
from legato.editing.population import sample_w
from legato.editing.style_space import (
    Channel,
    StyleStatistics,
    attribute_channels,
    nearest_latents,
    style_rows,
    style_statistics,
)
from legato.errors import InvalidInput
from legato.models.generator import Generator
from legato.types import DirectionInfo, Space

CHANNEL_STEP = 5.0  # deviations of a style channel that strength 1 is: it does little
_BATCH = 32
_POSITIVES = 30  # of a network's samples: the paper takes 10 to 30 examples


@dataclass(frozen=True, slots=True, eq=False)
class Labeled:
    """Codes with an attribute and without: [P, *S] and [N, *S], S is [D] for W or [L, D] for W+; the surest first."""

    positive: Tensor
    negative: Tensor


@torch.no_grad()
def label_samples(
    generator: Generator,
    score: Callable[[Tensor], Tensor],  # images [B, 3, R, R] -> [B, A]
    columns: Mapping[str, int],
    *,
    samples: int = 4096,
    ratio: float = 0.1,
    seed: int = 0,
    on_batch: Callable[[int], object] = lambda done: None,
) -> dict[str, Labeled]:
    """The codes w [N, D] of random z whose images score highest and lowest, a fraction `ratio` of `samples` a side.

    columns: which of the scores each name means. Raises InvalidInput where the fraction is no code at all.
    """
    if int(samples * ratio) < 2:
        raise InvalidInput(f"{ratio:g} of {samples} samples leave less than 2 codes a side; take more samples")
    codes, scores = [], []
    for w in sample_w(generator, samples, seed=seed, batch=_BATCH):
        codes.append(w)
        scores.append(score(generator(w[:, None].expand(-1, generator.num_layers, -1)).clamp(-1, 1)))
        on_batch(len(w))
    w, read = torch.cat(codes), torch.cat(scores)
    found = {}
    for name, column in columns.items():
        index, high = extremes(read[:, column], ratio)
        found[name] = Labeled(w[index[high]].flip(0), w[index[~high]])
    return found


def boundary_directions(
    generator: Generator,
    labeled: Mapping[str, Labeled],
    names: Sequence[str],
    *,
    conditions: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[Directions, dict[str, Any]]:
    """Normals of the boundaries of `names`, free of what moves along those of `conditions`; and their provenance.

    Strength 1 is one standard deviation of the labeled codes along the normal. Raises InvalidInput where there is one
    kind of codes alone, or nothing is left beside the conditions.
    """
    fitted = {}
    for name in (*names, *conditions):
        codes = torch.cat([labeled[name].positive, labeled[name].negative])
        kinds = torch.arange(len(codes), device=codes.device) < len(labeled[name].positive)
        fitted[name] = fit_boundary(codes, kinds, seed=seed)
    vectors, described = {}, {}
    for name in names:
        boundary = fitted[name]
        others = [fitted[other].normal for other in conditions if other != name]
        vectors[name] = boundary.deviation * project(boundary.normal, others)
        without = f", without {', '.join(conditions)}" if others else ""
        described[name] = (
            f"boundary of {boundary.samples} codes{without}, accuracy {boundary.accuracy:.2f} on codes held back"
        )
    provenance: dict[str, Any] = {"method": "boundary", "conditions": list(conditions)}
    provenance["boundaries"] = {name: boundary.provenance for name, boundary in fitted.items()}
    return unmeasured(vectors, described, generator, layers=layers), provenance


def channel_directions(
    generator: Generator,
    labeled: Mapping[str, Labeled],
    *,
    count: int = 10,
    layers: Sequence[int] | None = None,
    samples: int = 20_000,
    space: Space = "s",
) -> tuple[Directions, dict[str, Any]]:
    """The `count` channels of S in which the positive codes of each name stand out, as directions named
    NAME_LAYER_CHANNEL; and their provenance.

    Strength 1 is `CHANNEL_STEP` deviations of the channel, towards the attribute: in `space` "s" exactly, in "w+" as
    far as a step of the latents gives it, and the description tells how much of the change is reached. `layers`, of
    W+, are those whose channels are searched in S, and those that move in W+.
    """
    statistics = style_statistics(generator, samples=samples)
    vectors, described, ranked = {}, {}, {}
    for name, codes in labeled.items():
        positive = codes.positive[:_POSITIVES]
        latents = positive if positive.dim() == 3 else positive[:, None].expand(-1, generator.num_layers, -1)
        with torch.no_grad():
            channels = _channels(generator, statistics, latents, layers if space == "s" else None)[:count]
        ranked[name] = {f"{layer}_{channel}": ratio for (layer, channel), ratio in channels}
        for (layer, channel), ratio in channels:
            change = [torch.zeros_like(mean) for mean in statistics.mean]
            change[layer][channel] = CHANNEL_STEP * statistics.deviation[layer][channel] * (1 if ratio > 0 else -1)
            told = f"channel {channel} of style layer {layer}, signal to noise {abs(ratio):.1f}"
            if space == "s":
                vectors[f"{name}_{layer}_{channel}"] = torch.cat(change)
            else:
                vectors[f"{name}_{layer}_{channel}"], reached = nearest_latents(generator, change)
                told += f", reached {reached:.0%}"
            described[f"{name}_{layer}_{channel}"] = told
    provenance = {"method": "style-space", "space": space, "samples": statistics.samples, "channels": ranked}
    if space == "w+":
        return unmeasured(vectors, described, generator, layers=layers), provenance
    infos = {name: DirectionInfo(name, told, 0.0, 0.0, space="s") for name, told in described.items()}
    return Directions(vectors, infos, generator_digest=generator.digest), provenance


def _channels(
    generator: Generator, statistics: StyleStatistics, latents: Tensor, layers: Sequence[int] | None
) -> list[tuple[Channel, float]]:
    """All channels by how far codes [P, L, D] stand out in them, of those that some layers of W+ move."""
    every = sum(len(mean) for mean in statistics.mean)
    found = attribute_channels(statistics, generator.styles(latents), count=every)
    rows = style_rows(generator)
    return [(channel, ratio) for channel, ratio in found if layers is None or rows[channel.layer] in layers]
