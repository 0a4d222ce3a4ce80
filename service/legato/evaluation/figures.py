"""The figures of a method: which there are, their medians over clips, and the same clips under two methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from legato.evaluation.results import Record

REFERENCES = ("w_plus", "encoder")  # what the others are set beside: the first that is there


@dataclass(frozen=True, slots=True)
class Metric:
    """One column: key in the records, heading, factor and digits it is printed with, which way is better."""

    key: str
    title: str
    digits: int
    scale: float = 1.0
    better: str = ""  # "high", "low", or "one" for what is best at 1


FIDELITY = (
    Metric("psnr_db", "PSNR dB", 2, better="high"),
    Metric("mse", "MSE x1e-3", 3, 1e3, "low"),
    Metric("ssim", "SSIM", 4, better="high"),
    Metric("lpips", "LPIPS", 4, better="low"),
    Metric("trunk_distance", "trunk distance", 4, better="low"),
    Metric("identity_similarity", "ID", 3, better="high"),
    Metric("latent_error", "latent error", 4, better="low"),
)
CONSISTENCY = (
    Metric("warp_error", "warp error x1e-3", 3, 1e3, "low"),
    Metric("change_error", "dT x1e-3", 2, 1e3, "low"),
    Metric("tl_id", "TL-ID", 4, better="one"),
    Metric("tg_id", "TG-ID", 4, better="one"),
    Metric("edited_tl_id", "TL-ID edited", 4, better="one"),
    Metric("edited_tg_id", "TG-ID edited", 4, better="one"),
)
EDITABILITY = (
    Metric("response", "response", 3, better="one"),
    Metric("leakage", "leakage", 3, better="low"),
    Metric("editability", "response / leakage", 2, better="high"),
    Metric("identity", "identity kept", 3, better="high"),
    Metric("true_edit_cosine", "true edit cosine", 3, better="high"),
    Metric("true_edit_gain", "gain", 3, better="one"),
    Metric("true_edit_psnr_db", "PSNR to true edit dB", 2, better="high"),
)
PAIRED = ("psnr_db", "warp_error", "change_error", "editability", "true_edit_cosine", "true_edit_psnr_db")
BY_CLIP = (*FIDELITY, *CONSISTENCY, *EDITABILITY)
COST = (
    Metric("passes_per_frame", "generator passes a frame", 1),
    Metric("seconds_per_frame", "seconds a frame", 3, better="low"),
    Metric("peak_memory_mib_per_frame", "peak memory MiB a frame", 1, better="low"),
    Metric("frechet_distance", "Frechet distance", 3, better="low"),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles over clips."""

    median: float
    low: float
    high: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread | None:
        """None of nothing; what is no number is left out."""
        known = [value for value in values if math.isfinite(value)]
        if not known:
            return None
        low, median, high = np.percentile(known, (25, 50, 75))
        return Spread(float(median), float(low), float(high), len(known))


def summary(record: Record) -> dict[str, float | None]:
    """Medians over clips and costs of one method; None where a figure could not be computed."""
    found: dict[str, float | None] = {}
    for metric in BY_CLIP:
        spread = over_clips(record["clips"].values(), metric.key)
        found[metric.key] = spread.median if spread else None
    return found | {metric.key: record.get(metric.key) for metric in COST}


def over_clips(figures: Any, key: str) -> Spread | None:
    """Of the figures by clip (or by edited clip) that have the key."""
    return Spread.of([each[key] for each in figures if key in each])


@dataclass(frozen=True, slots=True)
class Difference:
    """A method less the reference, clip by clip: what scatters from clip to clip is in both, and goes."""

    median: float
    better: int  # clips in which the method is the better one
    count: int


def reference_of(records: Sequence[Record]) -> str | None:
    """The label of the method that the others are set beside; None where there is none, or nothing beside it."""
    labels = [record["method"] for record in records]
    return next((name for name in REFERENCES if name in labels), None) if len(labels) > 1 else None


def beside(record: Record, reference: Record) -> dict[str, Difference]:
    """Differences to the reference, by key of `PAIRED`, over the clips that both have."""
    found = {}
    for metric in BY_CLIP:
        if metric.key not in PAIRED:
            continue
        pairs = [
            (figures[metric.key], reference["clips"][name][metric.key])
            for name, figures in record["clips"].items()
            if metric.key in figures and metric.key in reference["clips"].get(name, {})
        ]
        if pairs:
            changes = np.array([ours - theirs for ours, theirs in pairs])
            better = changes > 0 if metric.better == "high" else changes < 0
            found[metric.key] = Difference(float(np.median(changes)), int(better.sum()), len(pairs))
    return found
