"""One clip inverted by one method, in figures: how like the source it is, how steady, and how it takes an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from legato.evaluation.editability import Response, agreement, read_edit
from legato.evaluation.known import KnownClip
from legato.evaluation.metrics import (
    Motion,
    identity_embedding,
    identity_similarity,
    latent_error,
    ssim,
    temporal_identity,
    warp_error,
)
from legato.inversion.methods import InvertedClip
from legato.losses import PEAK, mse, perceptual_distance, psnr
from legato.models.attributes import AttributeNetwork
from legato.models.generator import Generator
from legato.models.perceptual import AttributeTrunk, PerceptualNetwork

_BATCH = 16
_SMALLEST = 11  # pixels that SSIM asks for


@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """The networks that read pictures, none of which a method may have used."""

    attributes: AttributeNetwork | None = None
    lpips: PerceptualNetwork | None = None
    backbone: str = "alex"


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The frames of a clip that a method has codes of, and what became of them."""

    clip: KnownClip
    inverted: InvertedClip
    target: Tensor  # [T', 3, R, R]
    images: Tensor  # [T', 3, R, R]: the reconstruction
    motion: Motion | None  # of the frames that are neighbors

    @staticmethod
    def of(clip: KnownClip, inverted: InvertedClip, generator: Generator) -> Seen:
        """On the CPU, in float32."""
        rows = list(inverted.frames)
        images = inverted.images(generator).float().cpu()
        whole = rows == list(range(rows[0], rows[0] + len(rows)))
        motion = clip.motion
        if motion is not None:
            part = slice(rows[0], rows[-1])
            motion = Motion(motion.flow[part], motion.visible[part]) if whole and len(rows) > 1 else None
        return Seen(clip, inverted, clip.frames[rows], images, motion)


@torch.no_grad()
def measure(seen: Seen, judges: Judges) -> dict[str, float]:
    """Figures of the reconstruction, by key of `report.METRICS`. What cannot be computed of this clip is not there."""
    image, target = seen.images, seen.target
    found = {
        "mse": float(mse(image, target).mean()) / PEAK**2,
        "psnr_db": float(psnr(image, target).mean()),
    }
    if image.shape[-1] >= _SMALLEST:
        found["ssim"] = float(ssim(image, target).mean())
    if judges.lpips is not None:
        found["lpips"] = _distance(judges.lpips, image, target)
    if seen.clip.latents is not None:
        rows = list(seen.inverted.frames)
        found["latent_error"] = float(latent_error(seen.inverted.latents.cpu(), seen.clip.latents[rows]).mean())
    if len(image) > 1:
        found["change_error"] = float((image.diff(dim=0) - target.diff(dim=0)).abs().mean()) / PEAK
    if seen.motion is not None:
        found["warp_error"] = float(warp_error(image, seen.motion).mean())
    if judges.attributes is not None:
        found |= _read(seen, judges.attributes)
    return found


def _read(seen: Seen, network: AttributeNetwork) -> dict[str, float]:
    """What an attribute network sees."""
    source, rebuilt = (identity_embedding(network, images) for images in (seen.target, seen.images))
    found = {
        "trunk_distance": _distance(AttributeTrunk(network), seen.images, seen.target),
        "identity_similarity": float(identity_similarity(source, rebuilt).mean()),
    }
    if len(seen.images) > 1:
        found["tl_id"], found["tg_id"] = temporal_identity(source, rebuilt)
    return found


def _distance(network: PerceptualNetwork, image: Tensor, target: Tensor) -> float:
    pairs = zip(image.split(_BATCH), target.split(_BATCH), strict=True)
    return float(torch.cat([perceptual_distance(network.features(a), network.features(b)) for a, b in pairs]).mean())


def of_source(clips: Sequence[KnownClip], network: AttributeNetwork | None = None) -> dict[str, float]:
    """What a perfect inversion has: medians over the clips themselves, and over their true edits as a network reads
    them. What that reads besides the edited attribute is leakage to it, in the truth as well."""
    each = [_of_source(clip, network) for clip in clips]
    keys = dict.fromkeys(key for figures in each for key in figures)
    return {key: float(np.median([figures[key] for figures in each if key in figures])) for key in keys}


def _of_source(clip: KnownClip, network: AttributeNetwork | None) -> dict[str, float]:
    edits = []
    for attribute, truth in clip.truths.items():
        if network is not None and attribute in network.config.names:
            response, identity = read_edit(clip.frames, truth.images, truth.change, network, attribute)
            edits.append(_read_figures(response, identity))
    found = mean_of_edits(edits)
    if clip.motion is not None:
        found |= {"warp_error": float(warp_error(clip.frames, clip.motion).mean())}
        found |= {"change_error": 0.0, "tl_id": 1.0, "tg_id": 1.0}
    return found


def mean_of_edits(edits: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Figures of one clip's edits, means over the attributes; editability is the ratio of two of them."""
    keys = dict.fromkeys(key for figures in edits for key in figures)
    means = {key: float(np.mean([figures[key] for figures in edits if key in figures])) for key in keys}
    if means.get("leakage", 0.0) > 0:
        means["editability"] = means["response"] / means["leakage"]
    return means


def _read_figures(response: Response, identity: float) -> dict[str, float]:
    return {"response": response.response, "leakage": response.leakage, "identity": identity}


@dataclass(frozen=True, slots=True, eq=False)
class EditedClip:
    """A clip after one edit."""

    images: Tensor  # [T', 3, R, R]
    figures: Mapping[str, float]


@torch.no_grad()
def edit(
    seen: Seen, attribute: str, direction: Tensor, generator: Generator, network: AttributeNetwork | None
) -> EditedClip | None:
    """Moves every code along a direction [L, D], as far as the truth moved where it is known, and measures.

    None where nothing was meant to move.
    """
    rows, truth = list(seen.inverted.frames), seen.clip.truths.get(attribute)
    if truth is not None:
        amount = truth.change[rows]
    else:
        amount = torch.full((len(rows),), seen.clip.amounts.get(attribute, 0.0))
    if not bool(amount.abs().sum() > 0):
        return None
    move = amount[:, None, None].to(direction) * direction
    after = seen.inverted.images(generator, move=move.to(generator.w_avg)).float().cpu()
    figures: dict[str, float] = {}
    if network is not None and attribute in network.config.names:
        response, identity = read_edit(seen.images, after, amount, network, attribute)
        figures |= _read_figures(response, identity)
        if len(after) > 1:
            source, edited = (identity_embedding(network, x, without=(attribute,)) for x in (seen.target, after))
            figures["edited_tl_id"], figures["edited_tg_id"] = temporal_identity(source, edited)
    if truth is not None and bool(((truth.images[rows] - seen.target).abs() > 0).any()):
        agreed = agreement(seen.images, after, seen.target, truth.images[rows])
        figures["true_edit_cosine"], figures["true_edit_gain"] = agreed.cosine, agreed.gain
        figures["true_edit_psnr_db"] = agreed.psnr_db
    return EditedClip(after, figures)
