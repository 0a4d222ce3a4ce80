"""Whether an inverted code can be edited: what an attribute network reads, and agreement with the truth.

The truth is known of rendered heads alone: the same head is rendered again with the attribute really changed. Units of
every edit are standard deviations of its attribute over the renderer's population, those of named directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from legato.evaluation.metrics import identity_embedding, identity_similarity
from legato.losses import psnr
from legato.models.attributes import AttributeNetwork
from legato.synthetic.factors import ATTRIBUTES, IDENTITY, MOTION, attributes_of, standard_deviations
from legato.synthetic.renderer import Renderer

_FACTORS = (*IDENTITY, *MOTION)
_EXTREME = 3.5  # Gaussian units, beyond which no factor changes what is seen
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Response:
    """What an edit did, per unit of it: to its own attribute, and to the others on average (absolute)."""

    response: float
    leakage: float
    others: Mapping[str, float]


def attribute_response(
    before: Tensor,  # [N, A] in standard deviations, `AttributeNetwork.standardized`
    after: Tensor,  # [N, A]
    names: Sequence[str],  # A
    attribute: str,
    amount: Tensor,  # [N], signed: how far each was meant to go
) -> Response:
    """response: slope of the attribute's change over the amount (least squares, so that heads which could hardly move
    count little); leakage: mean absolute change of each other attribute over the mean absolute amount. What the network
    misreads counts as leakage, too. Raises ValueError where nothing was meant to move."""
    if not amount.abs().sum() > 0:
        raise ValueError("no response to an edit of amount 0")
    column = list(names).index(attribute)
    change = after - before
    slope = (change[:, column] * amount).sum() / amount.square().sum()
    others = {
        name: float(change[:, i].abs().mean() / amount.abs().mean()) for i, name in enumerate(names) if i != column
    }
    return Response(float(slope), sum(others.values()) / max(len(others), 1), others)


@dataclass(frozen=True, slots=True, eq=False)
class TrueEdit:
    """The same heads with one attribute really changed."""

    images: Tensor  # [T, 3, R, R]
    change: Tensor  # [T] in standard deviations: what was asked for, less where the attribute ends before


def true_edit(renderer: Renderer, z: Tensor, attribute: str, amount: float) -> TrueEdit:
    """Renders factors z [T, 64] with `attribute` moved by `amount` standard deviations, all else as it is."""
    column, row = _FACTORS.index(attribute), ATTRIBUTES.index(attribute)
    deviation = _deviations()[attribute]

    def read(value: Tensor) -> Tensor:
        moved = z.clone()
        moved[:, column] = value
        return attributes_of(moved)[:, row]

    low, high = torch.full_like(z[:, 0], -_EXTREME), torch.full_like(z[:, 0], _EXTREME)
    before = attributes_of(z)[:, row]
    wanted = before + amount * deviation
    for _ in range(30):  # an attribute does not fall where its factor rises
        middle = (low + high) / 2
        short = read(middle) < wanted
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    found = high if amount > 0 else low
    moved = z.clone()
    moved[:, column] = found
    images = torch.cat([renderer(chunk).image for chunk in moved.split(_BATCH)])
    return TrueEdit(images, (read(found) - before) / deviation)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How an edit of an inversion agrees with the true edit."""

    cosine: float  # of the images' change and the true change
    gain: float  # length of the change along the true one, 1 is right
    psnr_db: float  # of the edited image to the true edit


@cache
def _deviations() -> dict[str, float]:
    return standard_deviations()  # half a second


def agreement(before: Tensor, after: Tensor, true_before: Tensor, true_after: Tensor) -> Agreement:
    """Means over the frames [T, 3, R, R] of an inversion before and after an edit, and of the truth.

    Frames whose truth does not change count in the PSNR alone. A linear direction under-does most attributes, so that
    the gain is below 1 where the cosine is still good. Raises ValueError where no frame changes.
    """
    found = (after.clamp(-1, 1) - before.clamp(-1, 1)).flatten(1)
    truth = (true_after - true_before).flatten(1)
    moved = truth.square().sum(1) > 0
    if not moved.any():
        raise ValueError("the true edit changes no frame: there is nothing to agree with")
    found, truth = found[moved], truth[moved]
    gain = (found * truth).sum(1) / truth.square().sum(1)
    cosine = F.cosine_similarity(found, truth, dim=1)
    return Agreement(float(cosine.mean()), float(gain.mean()), float(psnr(after, true_after).mean()))


@torch.no_grad()
def read_edit(
    before: Tensor,  # [T, 3, R, R]
    after: Tensor,  # [T, 3, R, R]
    amount: Tensor,  # [T] in standard deviations
    network: AttributeNetwork,
    attribute: str,
) -> tuple[Response, float]:
    """What a network sees of an edit: the response, and the mean cosine of the identity attributes before and after
    without the edited one. Raises ValueError where nothing was meant to move."""
    read = [torch.cat([network.standardized(c.clamp(-1, 1)) for c in x.split(_BATCH)]) for x in (before, after)]
    embedded = [identity_embedding(network, x, without=(attribute,)) for x in (before, after)]
    response = attribute_response(read[0], read[1], network.config.names, attribute, amount)
    return response, float(identity_similarity(embedded[0], embedded[1]).mean())


@dataclass(frozen=True, slots=True)
class EditScores:
    """What one direction does to the codes of one clip."""

    response: Response
    identity: float  # cosine of the identity attributes before and after, without the edited one
    agreement: Agreement


@torch.no_grad()
def score_edit(
    synthesize: Callable[[Tensor], Tensor],
    latents: Tensor,  # [T, L, D]: an inversion of `frames`
    direction: Tensor,  # [L, D] per standard deviation of the attribute
    network: AttributeNetwork,
    attribute: str,
    frames: Tensor,  # [T, 3, R, R]: as rendered
    truth: TrueEdit,
) -> EditScores:
    """Moves each code as far as the truth moved and compares; the network should be one that no loss has used."""
    amount = truth.change.to(latents)
    moved = latents + amount[:, None, None] * direction.to(latents)
    before, after = (torch.cat([synthesize(c) for c in codes.split(_BATCH)]) for codes in (latents, moved))
    response, identity = read_edit(before, after, amount, network, attribute)
    return EditScores(response, identity, agreement(before, after, frames, truth.images))
