"""Unsupervised transfer: whether the steps found in one clip move another subject as they moved the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.editing_heads import Bench, median, read, shown
from legato.editing.transfer import steps_of, transfer
from legato.evaluation.metrics import identity_embedding, identity_similarity
from legato.inversion.method import parse_method
from legato.inversion.methods import Networks, invert_clips
from legato.synthetic.clips import clip_z
from legato.synthetic.factors import ATTRIBUTES, attributes_of, standard_deviations

PAIRS = 6  # clip of identity k onto identity k + PAIRS
FRAMES, FPS = 16, 5.0  # 3 seconds: long enough for the head to turn
STEPS = 40
VARIANTS = ("shared", "per_layer")  # the mean of a step over the layers, as the paper's n_k, and each layer's own
READ = ("yaw", "mouth_open", "pitch", "blink", "smile")
SPREAD = 0.3  # standard deviations: a trajectory that moves less says nothing of correlation


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """What was moved: images [T, 3, R, R]."""

    source: Tensor
    moved: dict[str, Tensor]  # by variant


def run(bench: Bench, tell: Callable[[str], None]) -> tuple[dict[str, Any], list[Pair]]:
    """Correlations and slopes of attribute trajectories, read by the judging network, and the pictures."""
    pairs, figures = [], []
    spreads = standard_deviations()
    units = torch.tensor([spreads[name] for name in ATTRIBUTES])
    method = parse_method(f"consecutive:steps={STEPS}")
    networks = Networks(bench.generator, bench.encoder)
    for number in range(PAIRS):
        z = clip_z(number, 1, FRAMES, "eval", fps=FPS)
        frames = torch.cat([bench.renderer(chunk).image for chunk in z.split(8)])
        found = invert_clips(networks, [frames], method).clips[0]
        code = bench.codes[number + PAIRS]
        moved = {
            name: shown(bench.generator, transfer(code, steps_of(found.latents, shared=name == "shared")))
            for name in VARIANTS
        }
        pairs.append(Pair(frames, moved))
        figures.append({name: compare(bench, frames, moved[name], attributes_of(z) / units) for name in VARIANTS})
        for name in VARIANTS:
            shape = ", ".join(f"{read} {figures[-1][name][read]['correlation']:.2f}" for read in READ[:2])
            tell(f"clip {number} onto head {number + PAIRS}, {name}: correlation of {shape}")
    summary = {name: summarize([figure[name] for figure in figures]) for name in VARIANTS}
    return {"summary": summary, "pairs": figures}, pairs


def summarize(figures: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians over the pairs whose source moves."""
    summary: dict[str, dict[str, float]] = {}
    for name in READ:
        counted = [f[name] for f in figures if f[name]["source_spread"] >= SPREAD]
        summary[name] = {"pairs": len(counted)} | {
            key: median(torch.tensor([c[key] for c in counted]))
            for key in ("correlation", "correlation_with_truth", "slope")
        }
    summary["identity"] = {
        key: median(torch.tensor([f["identity"][key] for f in figures])) for key in figures[0]["identity"]
    }
    return summary


def compare(bench: Bench, source_images: Tensor, moved_images: Tensor, truth: Tensor) -> dict[str, dict[str, float]]:
    """Trajectories of the source clip and of the other subject, from their first frames on."""
    ways = [read(bench.judging, images) for images in (source_images, moved_images)]
    source, moved = (way - way[:1] for way in ways)
    told = {}
    for name in READ:
        column = ATTRIBUTES.index(name)
        a, b = source[:, column], moved[:, column]
        told[name] = {
            "correlation": round(correlation(a, b), 3),
            "correlation_with_truth": round(correlation(truth[:, column], b), 3),
            "slope": round(float((a * b).sum() / a.square().sum().clamp(min=1e-9)), 3),
            "source_spread": round(float(a.std()), 3),
        }
    embedded = [identity_embedding(bench.judging, images) for images in (moved_images, source_images)]
    still = embedded[0][:1].expand_as(embedded[0])
    told["identity"] = {
        "to_its_own_first_frame": round(float(identity_similarity(embedded[0], still).mean()), 3),
        "to_the_source": round(float(identity_similarity(embedded[0], embedded[1]).mean()), 3),
    }
    return told


def correlation(a: Tensor, b: Tensor) -> float:
    """0 where either does not move."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-9))
