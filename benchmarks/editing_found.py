"""What SeFa, GANSpace, boundaries and StyleSpace find in the shipped model, beside its own directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.editing_heads import Bench, read
from legato.editing.directions import Directions, unmeasured
from legato.editing.ganspace import ganspace
from legato.editing.labeled import boundary_directions, label_samples
from legato.editing.sefa import sefa
from legato.editing.style_space import (
    Channel,
    ChannelEdit,
    StyleStatistics,
    attribute_channels,
    edit_styles,
    style_statistics,
)
from legato.evaluation.editability import attribute_response
from legato.evaluation.found import moved_attributes, read_codes
from legato.synthetic.factors import ATTRIBUTES

COUNT = 6  # components of each unsupervised method
SEFA_STRENGTH, GANSPACE_STRENGTH = 8.0, 2.0  # sigmas: along what changes the styles most, codes vary little
GROUPS = {"all": None, "0-1": (0, 1), "2-5": (2, 3, 4, 5), "6-11": (6, 7, 8, 9, 10, 11)}  # as the released code cuts W+
BOUNDARIES = ("yaw", "mouth_open", "glasses")
SAMPLES = 2048  # of codes with labels
PRINCIPAL_SAMPLES = 50_000
CHANNELS, DEVIATIONS = 10, 10.0  # of StyleSpace: the highest ranked, each moved so far
RESPONSE = 1.0  # standard deviations: what labeled directions are compared at


def run(bench: Bench, tell: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Directions]]:
    """Figures, and the directions of each method."""
    generator = bench.generator
    found: dict[str, Directions] = {}
    for name, layers in GROUPS.items():
        found[f"sefa {name}"] = sefa(generator, layers=layers, count=COUNT).directions(generator)
    found["ganspace"] = ganspace(generator, components=COUNT, samples=PRINCIPAL_SAMPLES).directions(generator)
    unsupervised = {}
    for name, directions in found.items():
        strength = GANSPACE_STRENGTH if name == "ganspace" else SEFA_STRENGTH
        moved = moved_attributes(generator, bench.judging, bench.codes, directions, strength=strength)
        unsupervised[name] = {
            item.name: {
                "strength": strength,
                "attribute": item.attribute,
                "response": round(item.response, 3),
                "leakage": round(item.leakage, 3),
                "selectivity": round(item.selectivity, 2),
                "second": item.second,
                "second_response": round(item.second_response, 3),
            }
            for item in moved
        }
        best = max(moved, key=lambda item: item.selectivity)
        tell(f"{name}: {best.name} moves {best.attribute} by {best.response:+.2f}, {best.selectivity:.1f} times others")
    labeled, compared = _labeled(bench, tell)
    return {"unsupervised": unsupervised, "labeled": compared}, found | labeled


def _labeled(bench: Bench, tell: Callable[[str], None]) -> tuple[dict[str, Directions], dict[str, Any]]:
    columns = {name: ATTRIBUTES.index(name) for name in BOUNDARIES}
    labels = label_samples(bench.generator, bench.fitting.standardized, columns, samples=SAMPLES)
    boundaries, provenance = boundary_directions(bench.generator, labels, BOUNDARIES)
    conditional: dict[str, Tensor] = {}
    for name in BOUNDARIES:
        others = [other for other in BOUNDARIES if other != name]
        conditional[name] = boundary_directions(bench.generator, labels, [name], conditions=others)[0].vector(name)
    conditioned = unmeasured(conditional, dict.fromkeys(conditional, "conditional"), bench.generator)
    statistics = style_statistics(bench.generator, samples=5000)
    compared: dict[str, Any] = {}
    for name in BOUNDARIES:
        candidates: dict[str, Tensor] = {
            "shipped": bench.directions.vector(name),
            "boundary": boundaries.vector(name),
            "conditional": conditioned.vector(name),
        }
        compared[name] = {method: at_response(bench, name, vector) for method, vector in candidates.items()}
        compared[name]["boundary"]["accuracy"] = round(provenance["boundaries"][name]["accuracy"], 3)
        positive = labels[name].positive[:30, None].expand(-1, bench.generator.num_layers, -1)
        with torch.no_grad():
            ranked = attribute_channels(statistics, bench.generator.styles(positive), count=CHANNELS)
        tried = [single_channel(bench, name, channel, statistics) for channel, _ in ranked]
        compared[name]["channel"] = min(tried, key=lambda figures: figures["leakage"])
        told = ", ".join(f"{method} {figures['leakage']:.2f}" for method, figures in compared[name].items())
        tell(f"{name}: leakage at a response of {RESPONSE:g}: {told}")
    return {"boundary": boundaries}, compared


def single_channel(bench: Bench, attribute: str, channel: Channel, statistics: StyleStatistics) -> dict[str, Any]:
    """One channel of S moved both ways by `DEVIATIONS`: leakage for each deviation of the attribute that it gives."""
    styles = bench.generator.styles(bench.codes.repeat(2, 1, 1))
    amount = torch.ones(len(styles[0]))
    amount[len(bench.codes) :] = -1
    edits = [[ChannelEdit(*channel, DEVIATIONS * way)] for way in amount.tolist()]
    with torch.no_grad():
        images = bench.generator.synthesize(edit_styles(styles, edits, statistics)).clamp(-1, 1)
    before = bench.read_before.repeat(2, 1)
    found = attribute_response(before, read(bench.judging, images), ATTRIBUTES, attribute, amount)
    response = max(abs(found.response), 1e-3)
    worst = max(found.others, key=lambda name: found.others[name])
    return {
        "channel": f"{channel.layer}_{channel.channel}",
        "strength": DEVIATIONS,
        "response": round(response, 3),
        "leakage": round(found.leakage / response, 3),
        "worst": worst,
        "worst_leakage": round(found.others[worst] / response, 3),
    }


def at_response(bench: Bench, attribute: str, vector: Tensor) -> dict[str, Any]:
    """Leakage at the strength whose response is `RESPONSE`, both ways, or at the largest response there is."""
    before = bench.read_before.repeat(2, 1)
    amount = torch.ones(len(before))
    amount[len(bench.codes) :] = -1
    tried = []
    for strength in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0):
        step = strength * vector
        after = read_codes(bench.generator, bench.judging, torch.cat([bench.codes + step, bench.codes - step]))
        found = attribute_response(before, after, ATTRIBUTES, attribute, amount)
        worst = max(found.others, key=lambda name: found.others[name])
        tried.append((strength, found.response, found.leakage, worst, found.others[worst]))
        if found.response >= RESPONSE:
            break
    strength, response, leakage, worst, most = max(tried, key=lambda item: item[1])
    share = RESPONSE / response if response > RESPONSE else 1.0  # between the last two, close to linear
    return {
        "strength": round(strength * share, 3),
        "response": round(response * share, 3),
        "leakage": round(leakage * share, 3),
        "worst": worst,
        "worst_leakage": round(most * share, 3),
    }
