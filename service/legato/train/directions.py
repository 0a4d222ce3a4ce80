"""Named directions from labelled pairs: the same head rendered with one attribute low and high.

The start is the mean change of the encoder's code per standard deviation of the attribute. It is then refined
against the truth: adding s * d to the code of one head of a pair must change the generator's image as the render
changed. At last its length is set so that strength 1 moves the attribute by one standard deviation, as a network
reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from legato.evaluation.editability import Response, attribute_response
from legato.models.attributes import AttributeNetwork
from legato.models.encoder import Encoder
from legato.models.generator import Generator
from legato.synthetic.dataset import from_uint8, to_uint8
from legato.synthetic.factors import ATTRIBUTES, IDENTITY, MOTION, sample_z, standard_deviations
from legato.synthetic.renderer import Renderer
from legato.train.reconstruction import weighted_reconstruction

LOW, HIGH = -1.1, 1.3  # Gaussian units: presence factors (glasses, beard) are off at the one and on at the other
_FACTORS = (*IDENTITY, *MOTION)


@dataclass(frozen=True)
class Pairs:
    """Renders of the same heads with one attribute low and high; `change` [N] in standard deviations of the
    attribute."""

    low: Tensor  # [N, 3, R, R]
    high: Tensor
    masks: Tensor  # [N, 2, R, R] eyes and mouth of either
    change: Tensor


def cached_pairs(folder: Path, renderer: Renderer, attribute: str, seeds: Sequence[int], deviation: float) -> Pairs:
    """`render_pairs`, kept in `folder` as uint8: they do not depend on the model."""
    file = folder / f"{attribute}-{renderer.resolution}-{seeds[0]}-{len(seeds)}.npz"
    if not file.exists():
        pairs = render_pairs(renderer, attribute, seeds, deviation)
        folder.mkdir(parents=True, exist_ok=True)
        low, high = to_uint8(pairs.low).numpy(), to_uint8(pairs.high).numpy()
        np.savez(file, low=low, high=high, masks=(pairs.masks * 255).byte().numpy(), change=pairs.change.numpy())
    with np.load(file) as kept:
        images = [from_uint8(torch.from_numpy(kept[side])) for side in ("low", "high")]
        return Pairs(
            images[0], images[1], torch.from_numpy(kept["masks"]).float() / 255, torch.from_numpy(kept["change"])
        )


def render_pairs(renderer: Renderer, attribute: str, seeds: Sequence[int], deviation: float) -> Pairs:
    """Renders both sides of each seed's head."""
    z = sample_z(seeds, "train")
    column = _FACTORS.index(attribute)
    sides = []
    for value in (LOW, HIGH):
        moved = z.clone()
        moved[:, column] = value
        sides.append([renderer(chunk) for chunk in moved.split(8)])
    low, high = (torch.cat([r.image for r in side]) for side in sides)
    masks = [torch.cat([torch.cat([r.eyes, r.mouth], 1) for r in side]) for side in sides]
    read = [torch.cat([r.attributes for r in side])[:, ATTRIBUTES.index(attribute)] for side in sides]
    return Pairs(low, high, torch.maximum(masks[0], masks[1]), (read[1] - read[0]) / deviation)


def fit_direction(
    generator: Generator,
    encoder: Encoder,
    pairs: Pairs,
    *,
    steps: int = 60,
    batch: int = 8,
    rate: float = 0.01,
    seed: int = 0,
) -> Tensor:
    """The direction [L, D] per standard deviation, before its length is set."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        ends = [torch.cat([encoder(chunk) for chunk in side.split(16)]) for side in (pairs.low, pairs.high)]
        images = [torch.cat([generator(chunk, "none") for chunk in codes.split(16)]) for codes in ends]
    direction = ((ends[1] - ends[0]) / pairs.change[:, None, None]).mean(0).requires_grad_(True)
    scale = float(direction.detach().abs().mean())
    optimizer = torch.optim.Adam([direction], lr=rate * scale * 10, betas=(0.9, 0.95))
    truth = pairs.high - pairs.low
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * scale * 10 * min(1.0, 2 * (1 - step / steps))
        index = torch.randint(len(truth), (batch,), generator=random)
        sign = 1 if step % 2 == 0 else -1
        codes = ends[0 if sign > 0 else 1][index] + sign * pairs.change[index, None, None] * direction
        target = images[0 if sign > 0 else 1][index] + sign * truth[index]
        loss = weighted_reconstruction(generator(codes, "none"), target, pairs.masks[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return direction.detach()


@torch.no_grad()
def read_heads(generator: Generator, network: AttributeNetwork, codes: Tensor) -> Tensor:
    """What the network reads from the heads of codes [N, L, D]: [N, A], in standard deviations."""
    return torch.cat([network.standardized(generator(c, "none").clamp(-1, 1)) for c in codes.split(16)])


@torch.no_grad()
def measure(
    generator: Generator,
    network: AttributeNetwork,
    codes: Tensor,
    attribute: str,
    direction: Tensor,
    strength: float = 2.0,
    before: Tensor | None = None,
) -> Response:
    """Moves every head towards the other side of the median (codes [N, L, D]): the response at `strength`.

    `before` is `read_heads` of the codes as they are, for who measures many directions on the same heads.
    """
    column = ATTRIBUTES.index(attribute)
    before = read_heads(generator, network, codes) if before is None else before
    sign = torch.where(before[:, column] < before[:, column].median(), 1.0, -1.0)
    moved = codes + strength * sign[:, None, None] * direction
    return attribute_response(before, read_heads(generator, network, moved), ATTRIBUTES, attribute, sign)


def set_length(
    generator: Generator,
    network: AttributeNetwork,
    codes: Tensor,
    attribute: str,
    direction: Tensor,
    wanted: float = 2.0,
    longest: float = 9.0,
    most_leakage: float = 0.3,
) -> Tensor:
    """The direction, as long as strength 2 needs to give `wanted` deviations; at most `longest` times as long.

    Where an attribute saturates before, the length with the largest response among those whose leakage stays below
    `most_leakage`.
    """

    before = read_heads(generator, network, codes)

    def at(length: float) -> Response:
        return measure(generator, network, codes, attribute, direction * length, before=before)

    tried = {length: at(length) for length in (longest / 8, longest / 4, longest / 3, longest / 2, longest)}
    reached = [length for length, found in tried.items() if found.response >= wanted]
    if not reached:
        kept = {n: r for n, r in tried.items() if r.leakage < most_leakage} or {min(tried): tried[min(tried)]}
        return direction * max(kept, key=lambda length: kept[length].response)
    low, high = 0.1, min(reached)
    for _ in range(6):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if at(middle).response < wanted else (low, middle)
    return direction * high


def all_pairs(
    folder: Path, renderer: Renderer, count: int = 48, first_seed: int = 1_000_000
) -> Iterator[tuple[str, Pairs]]:
    """Pairs of every attribute, each on heads of its own."""
    deviations = standard_deviations()
    for i, attribute in enumerate(ATTRIBUTES):
        seeds = range(first_seed + i * count, first_seed + (i + 1) * count)
        yield attribute, cached_pairs(folder, renderer, attribute, seeds, deviations[attribute])
