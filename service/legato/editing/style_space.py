"""StyleSpace (Wu et al. 2021, StyleSpace Analysis): channels of S, what each controls, and edits of single channels.

S is the list of all style vectors, in the order of `Generator.styles`: b4 conv1, b4 torgb, b8 conv0, conv1, torgb, ...
A channel is (layer, channel) of that list, written layer_channel in the paper. ToRGB layers, which move color alone,
are left out where channels are searched for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from legato.errors import InvalidEdit
from legato.models.generator import Generator, SynthesisLayer, ToRGB

_BATCH = 256


class Channel(NamedTuple):
    """One entry of S."""

    layer: int
    channel: int


class ChannelEdit(NamedTuple):
    """A step of `strength` standard deviations of a channel."""

    layer: int
    channel: int
    strength: float


@dataclass(frozen=True, slots=True, eq=False)
class StyleStatistics:
    """Mean and standard deviation of every channel over the generator's population."""

    mean: tuple[Tensor, ...]  # [C] for each layer of S
    deviation: tuple[Tensor, ...]
    searched: tuple[bool, ...]  # False for ToRGB
    samples: int


@torch.no_grad()
def style_statistics(
    generator: Generator, *, samples: int = 100_000, truncation: float = 1.0, seed: int = 5
) -> StyleStatistics:
    """Statistics of S over `samples` random z; the released code takes 100,000. Float64 sums."""
    random = torch.Generator().manual_seed(seed)
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    for start in range(0, samples, _BATCH):
        z = torch.randn(min(_BATCH, samples - start), generator.config.z_dim, generator=random)
        styles = [s.double() for s in generator.styles(generator.map(z.to(generator.w_avg.device), truncation))]
        sums = [a + s.sum(0) for a, s in zip(sums, styles, strict=True)] if sums else [s.sum(0) for s in styles]
        more = [s.square().sum(0) for s in styles]
        squares = [a + b for a, b in zip(squares, more, strict=True)] if squares else more
    means = [total / samples for total in sums]
    variances = [total / samples - mean.square() for total, mean in zip(squares, means, strict=True)]
    return StyleStatistics(
        tuple(mean.float() for mean in means),
        tuple(variance.clamp(min=1e-12).sqrt().float() for variance in variances),
        tuple(not isinstance(layer, ToRGB) for layer in _layers(generator)),
        samples,
    )


def flatten_styles(styles: Sequence[Tensor]) -> Tensor:
    """S as one tensor: [B, C] of each layer -> [B, sum of C]."""
    return torch.cat(list(styles), 1)


def split_styles(generator: Generator, flat: Tensor) -> list[Tensor]:
    """[B, sum of C] -> [B, C] for each layer."""
    return list(flat.split([layer.affine.weight.shape[0] for layer in _layers(generator)], 1))


def edit_styles(
    styles: Sequence[Tensor], edits: Sequence[Sequence[ChannelEdit]], statistics: StyleStatistics
) -> list[Tensor]:
    """styles [B, C] of each layer and each sample's edits -> s + strength * deviation at the channels; the input stays.

    Strengths of 5 to 20 deviations are usual: a channel does little. Raises InvalidEdit on a channel that is not there.
    """
    if len(edits) != len(styles[0]):
        raise ValueError(f"one list of edits per sample: {len(styles[0])} samples, {len(edits)} lists")
    edited = [layer.clone() for layer in styles]
    for sample, wanted in enumerate(edits):
        for layer, channel, strength in wanted:
            if not (0 <= layer < len(edited) and 0 <= channel < edited[layer].shape[1]):
                sizes = [layer.shape[1] for layer in styles]
                raise InvalidEdit(f"no style channel {layer}_{channel}: the layers have {sizes} channels")
            edited[layer][sample, channel] += strength * statistics.deviation[layer][channel].to(edited[layer])
    return edited


def attribute_channels(
    statistics: StyleStatistics, positives: Sequence[Tensor], *, count: int = 10
) -> list[tuple[Channel, float]]:
    """The channels in which samples with an attribute, styles [P, C] of each layer, stand out: section 5 of the paper.

    Styles are normalized by the population's mean and deviation; a channel ranks by its signal to noise, |mean| / std
    over the positives, 10 to 30 of which are enough. Gives (channel, signed mean / std), the highest first: the sign
    says which way the attribute lies. Raises ValueError for less than 2 positives.
    """
    if len(positives[0]) < 2:
        raise ValueError(f"at least 2 positive samples are wanted; got {len(positives[0])}")
    found: list[tuple[Channel, float]] = []
    for layer, styles in enumerate(positives):
        if statistics.searched[layer]:
            normalized = (styles - statistics.mean[layer].to(styles)) / statistics.deviation[layer].to(styles)
            ratio = normalized.mean(0) / normalized.std(0).clamp(min=1e-8)
            found += [(Channel(layer, c), float(value)) for c, value in enumerate(ratio)]
    return sorted(found, key=lambda item: -abs(item[1]))[:count]


def channel_maps(generator: Generator, latents: Tensor, *, side: int = 32, batch: int = 32) -> list[Tensor]:
    """Where each channel acts in one image: |d pixel / d style|, mean over RGB, [C, side, side] for each layer of S.

    latents [1, L, D]; the image is averaged to side x side first, 32 in the paper. One backward pass for every pixel
    and color, `batch` of them side by side: 3 * side^2 in all.
    """
    if latents.shape[0] != 1:
        raise ValueError(f"maps of one image: latents [1, L, D]; got {list(latents.shape)}")
    with torch.no_grad():
        styles = [layer.expand(batch, -1).contiguous() for layer in generator.styles(latents)]
    with torch.enable_grad():
        leaves = [layer.requires_grad_() for layer in styles]
        pooled = F.adaptive_avg_pool2d(generator.synthesize(leaves), side).flatten(1)  # [batch, 3 side^2]
    maps = [layer.new_zeros(layer.shape[1], 3, side * side) for layer in styles]
    count = pooled.shape[1]
    for start in range(0, count, batch):
        pixels = torch.arange(start, min(start + batch, count), device=pooled.device)
        chosen = pooled[torch.arange(len(pixels), device=pooled.device), pixels].sum()
        gradients = torch.autograd.grad(chosen, leaves, retain_graph=start + batch < count)
        for found, gradient in zip(maps, gradients, strict=True):
            found.flatten(1)[:, pixels] = gradient[: len(pixels)].T.abs()
    return [found.mean(1).view(-1, side, side) for found in maps]


def localized_channels(
    generator: Generator,
    samples: Iterable[tuple[Tensor, Mapping[str, Tensor]]],
    *,
    side: int = 32,
    win: float = 0.5,
    margin: float = 0.25,
) -> dict[str, list[tuple[Channel, float]]]:
    """Channels that act on one region alone: section 4 of the paper.

    samples: latents [1, L, D] of an image and its masks by region, each [1, 1, h, w] of 0..1; a region may be missing.
    A channel's map is cut at the value above which it covers as many pixels as the mask; with n of them inside the mask
    of size o it scores n / o^2 (as released: a small region must not lose to a large one), and in each image one region
    wins. Kept are channels that a region wins in more than `win` of the images that show it, and at least `margin` more
    often than the channel's second region. Gives (channel, share of images won) by region, the highest first.
    """
    searched = [not isinstance(layer, ToRGB) for layer in _layers(generator)]
    wins: dict[str, Tensor] = {}
    shown: dict[str, int] = {}
    sizes: list[int] = []
    for latents, masks in samples:
        maps = [m for m, taken in zip(channel_maps(generator, latents, side=side), searched, strict=True) if taken]
        sizes = [len(m) for m in maps]
        small = {name: F.adaptive_avg_pool2d(mask.float(), side).flatten() > 0.5 for name, mask in masks.items()}
        for name, won in _winners(torch.cat(maps).flatten(1), small).items():
            shown[name] = shown.get(name, 0) + 1
            wins[name] = wins.get(name, torch.zeros(len(won))) + won
    layers = [layer for layer, taken in enumerate(searched) if taken]
    channels = [Channel(layer, c) for layer, size in zip(layers, sizes, strict=False) for c in range(size)]
    kept: dict[str, list[tuple[Channel, float]]] = {}
    share = {name: won / shown[name] for name, won in wins.items()}
    for name, own in share.items():
        rivals = torch.stack([torch.zeros_like(own), *(other for n, other in share.items() if n != name)]).amax(0)
        index = ((own > win) & (own - rivals >= margin)).nonzero().flatten().tolist()
        kept[name] = sorted(((channels[c], float(own[c])) for c in index), key=lambda item: -item[1])
    return kept


def _winners(maps: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which of the regions in an image each channel acts on most: maps [C, P], masks [P] bool -> [C] of 0/1 by region.

    A channel that acts nowhere is nobody's.
    """
    present = {name: mask for name, mask in masks.items() if mask.any()}
    if not present:
        return {}
    order = maps.argsort(1, descending=True).cpu()
    scores = [mask.cpu()[order[:, : int(mask.sum())]].sum(1) / int(mask.sum()) ** 2 for mask in present.values()]
    best = torch.stack(scores).argmax(0)
    acts = (maps.amax(1) > 0).cpu()
    return {name: ((best == i) & acts).float() for i, name in enumerate(present)}


def nearest_latents(generator: Generator, change: Sequence[Tensor]) -> tuple[Tensor, float]:
    """The step in W+ [L, D] whose styles change most like `change`, [C] for each layer of S, and how well it does.

    Least squares, layers that share a w together; the second value is the share of the change's energy that is reached.
    S has more dimensions than W+, so that an edit of S comes out as a direction only as far as the affines allow.
    """
    count, dim = generator.num_layers, generator.config.w_dim
    with torch.no_grad():  # the affines, whatever constants they hold: what each coordinate of w changes
        steps = torch.eye(dim, device=generator.w_avg.device)[:, None].expand(dim, count, dim)
        rest = generator.styles(torch.zeros_like(steps[:1]))
        affines = [(moved - still).T.double() for moved, still in zip(generator.styles(steps), rest, strict=True)]
    rows = style_rows(generator)
    found, missed = [], 0.0
    for row in range(count):
        chosen = [i for i, at in enumerate(rows) if at == row]
        a = torch.cat([affines[i] for i in chosen])  # [C, D]
        wanted = torch.cat([change[i] for i in chosen]).to(a)
        step = torch.linalg.lstsq(a, wanted[:, None], rcond=1e-6, driver="gelsd").solution[:, 0]
        missed += float((a @ step - wanted).square().sum())
        found.append(step.float())
    energy = sum(float(layer.double().square().sum()) for layer in change)
    return torch.stack(found), 1.0 - missed / energy if energy else 1.0


def style_rows(generator: Generator) -> list[int]:
    """The row of W+ that each layer of S reads."""
    rows, index = [], 0
    for r in generator.synthesis.resolutions:
        count = len(generator.synthesis.block(r).layers)
        rows += [index + i for i in range(count)]
        index += count - 1
    return rows


def _layers(generator: Generator) -> list[SynthesisLayer | ToRGB]:
    return [layer for r in generator.synthesis.resolutions for layer in generator.synthesis.block(r).layers]
