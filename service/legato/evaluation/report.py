"""Figures of all methods as JSON and as Markdown: medians over clips, quartiles beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from legato.evaluation.figures import (
    BY_CLIP,
    CONSISTENCY,
    COST,
    EDITABILITY,
    FIDELITY,
    Metric,
    Spread,
    beside,
    over_clips,
    reference_of,
    summary,
)
from legato.evaluation.known import Protocol
from legato.evaluation.results import Record
from legato.inversion.method import METHODS


def as_json(
    records: Sequence[Record], protocol: Protocol, settings: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole report: `summary` by method, what made it, and every figure of every clip."""
    ordered = in_order(records)
    quartiles = {
        record["method"]: {
            metric.key: [spread.low, spread.high]
            for metric in BY_CLIP
            if (spread := over_clips(record["clips"].values(), metric.key))
        }
        for record in ordered
    }
    return {
        "summary": {record["method"]: summary(record) for record in ordered},
        "quartiles": quartiles,
        "beside": _beside_json(ordered),
        "protocol": {"name": protocol.name, "about": protocol.about, "told": list(protocol.told)},
        "settings": dict(settings),
        **about,
        "methods": {record["method"]: record for record in ordered},
    }


def _beside_json(records: Sequence[Record]) -> dict[str, Any]:
    reference = reference_of(records)
    against = next((record for record in records if record["method"] == reference), None)
    if against is None:
        return {}
    others = [record for record in records if record is not against]
    found = {record["method"]: {k: asdict(v) for k, v in beside(record, against).items()} for record in others}
    return {"reference": reference, "methods": found}


def in_order(records: Sequence[Record]) -> list[Record]:
    """Methods in their own order, each without options first."""
    return sorted(records, key=lambda record: (METHODS.index(record["name"]), record["method"]))


def markdown(
    records: Sequence[Record], protocol: Protocol, about: Mapping[str, Any], pictures: Sequence[str] = ()
) -> str:
    """The report for people; `about` is what `as_json` received."""
    ordered = in_order(records)
    stamp = about["stamp"]
    parts = [
        f"# Inversion methods: {protocol.name}",
        f"{_sentence(protocol.about)} Figures are medians over clips, with quartiles in brackets; bold is the best.",
        _table(ordered, "Fidelity", FIDELITY),
        _table(ordered, "Consistency", CONSISTENCY, ("(input)", about["source"])),
        _table(ordered, "Editability", EDITABILITY, ("(true edit)", about["source"])),
        *_by_attribute(ordered),
        _beside(ordered),
        _table(ordered, "Cost", COST),
        "## Pictures\n" + "\n\n".join(f"![{name}]({name})" for name in pictures) if pictures else "",
        "## Notes\n" + "\n".join(f"- {line}" for line in about["notes"]) if about["notes"] else "",
        _DEFINITIONS,
        "## Made with\n"
        + "\n".join(f"- {name}: {value}" for name, value in {**about["made_with"], **_stamped(stamp)}.items())
        + _others(ordered, stamp),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(
    records: Sequence[Record],
    title: str,
    metrics: Sequence[Metric],
    source: tuple[str, Mapping[str, float]] = ("", {}),
) -> str:
    """A table of the metrics that any method has, or "". `source`: label and figures of what stands above them all."""
    by_clip = metrics is not COST
    rows: list[list[Spread | None]] = []
    for record in records:
        if by_clip:
            rows.append([over_clips(record["clips"].values(), metric.key) for metric in metrics])
        else:
            rows.append([Spread.of([value]) if (value := record.get(m.key)) is not None else None for m in metrics])
    shown = [i for i in range(len(metrics)) if any(row[i] for row in rows)]
    if not shown:
        return ""
    best = {i: _best([spread.median if (spread := row[i]) else None for row in rows], metrics[i]) for i in shown}
    lines = ["| method | " + " | ".join(metrics[i].title for i in shown) + " |", "|---|" + "---|" * len(shown)]
    known = {metrics[i].key: source[1].get(metrics[i].key) for i in shown}
    if any(value is not None for value in known.values()):
        texts = [_number(value, metrics[i]) for i, value in zip(shown, known.values(), strict=True)]
        lines.append(f"| {source[0]} | " + " | ".join(texts) + " |")
    for number, (record, row) in enumerate(zip(records, rows, strict=True)):
        cells = [_cell(row[i], metrics[i], number == best[i], by_clip) for i in shown]
        lines.append(f"| {record['method']} | " + " | ".join(cells) + " |")
    return f"## {title}\n" + "\n".join(lines)


def _by_attribute(records: Sequence[Record]) -> list[str]:
    """One table an attribute would be long; one of the ratio and of the cosine shows which attributes differ."""
    names = list(dict.fromkeys(name for record in records for name in record["edits"]))
    tables = []
    for metric in EDITABILITY:
        if metric.key not in ("response", "leakage", "true_edit_cosine"):
            continue
        cells = {
            (record["method"], name): over_clips(record["edits"].get(name, {}).values(), metric.key)
            for record in records
            for name in names
        }
        if not any(cells.values()):
            continue
        lines = [f"| {metric.title} | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for record in records:
            row = [cells[record["method"], name] for name in names]
            texts = [_number(spread.median if spread else None, metric) for spread in row]
            lines.append(f"| {record['method']} | " + " | ".join(texts) + " |")
        tables.append("\n".join(lines))
    return ["### By attribute\n" + "\n\n".join(tables)] if tables else []


def _best(medians: Sequence[float | None], metric: Metric) -> int | None:
    known = [(i, value) for i, value in enumerate(medians) if value is not None]
    if len(known) < 2 or not metric.better:
        return None
    sign = -1.0 if metric.better == "high" else 1.0
    target = 1.0 if metric.better == "one" else 0.0
    return min(known, key=lambda pair: abs(pair[1] - target) if metric.better == "one" else sign * pair[1])[0]


def _beside(records: Sequence[Record]) -> str:
    """Every method less the reference, clip by clip."""
    reference = reference_of(records)
    against = next((record for record in records if record["method"] == reference), None)
    if against is None:
        return ""
    differences = {record["method"]: beside(record, against) for record in records if record is not against}
    metrics = [metric for metric in BY_CLIP if any(metric.key in found for found in differences.values())]
    lines = ["| method | " + " | ".join(metric.title for metric in metrics) + " |", "|---|" + "---|" * len(metrics)]
    for label, found in differences.items():
        cells = [
            f"{each.median * metric.scale:+.{metric.digits}f} ({each.better}/{each.count})" if each else ""
            for metric in metrics
            for each in [found.get(metric.key)]
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    head = f"Median of the difference to {reference} on the same clip, and in how many clips the method is the better."
    return f"## Beside {reference}\n{head}\n\n" + "\n".join(lines)


def _number(value: float | None, metric: Metric) -> str:
    return "" if value is None else f"{value * metric.scale:.{metric.digits}f}"


def _cell(spread: Spread | None, metric: Metric, best: bool, quartiles: bool) -> str:
    if spread is None:
        return ""
    median, low, high = (_number(value, metric) for value in (spread.median, spread.low, spread.high))
    text = f"**{median}**" if best else median
    return f"{text} [{low}, {high}]" if quartiles and spread.count > 1 else text


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _stamped(stamp: Mapping[str, Any]) -> dict[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())
    gpu = f"; {stamp['gpu']}" if stamp["gpu"] else ""
    return {
        "commit": f"`{stamp['commit']}`, {stamp['time']}",
        "machine": f"{stamp['cpu']}, {stamp['cpus']} CPUs, {stamp['memory_gib']} GiB, {stamp['machine']}{gpu}",
        "versions": f"python {stamp['python']}, {versions}",
    }


def _others(records: Sequence[Record], stamp: Mapping[str, Any]) -> str:
    """Methods that another commit or machine ran, which a folder may hold."""
    lines = [
        f"\n- {record['method']} was run by commit `{made['commit']}` on {made['cpu']}, {made['time']}"
        for record in records
        if ((made := record["stamp"])["commit"], made["cpu"]) != (stamp["commit"], stamp["cpu"])
    ]
    return "".join(lines)


_DEFINITIONS = """## What the figures are
- PSNR, SSIM (Wang et al. 2004), MSE on [0, 1]: of the reconstruction as it is shown, mean over a clip's frames.
- trunk distance: mean squared difference of an attribute network's maps, normalized over their channels. ID:
  cosine of what that network reads of who is shown (pose and expression left out), source to reconstruction. No
  loss has used the network.
- latent error: mean squared difference of the codes to those that made the frames.
- warp error: Lai et al. 2018, masked by visibility, along the source's motion. dT: mean absolute error of the
  change from frame to frame, on [0, 1]. TL-ID, TG-ID: Tzaban et al. 2022, of the reconstruction and of the edited
  clips; 1 is as consistent as the source.
- response: change of the edited attribute per unit asked for; leakage: mean absolute change of the other
  attributes per unit; identity kept: cosine of the identity attributes before and after, without the edited
  one. A clip's value is the mean over the edited attributes.
- true edit: the same head with the attribute really changed. Cosine of the edit's change of the image and the
  true change; gain: its length along the true one; PSNR of the edited reconstruction to the true edit.
- generator passes: of the whole generator over one image, forward and backward one each; of multi_code those of
  the tail, its head goes once for each code. Memory is what came on top of what the process held, over the
  frames inverted at once.
- Frechet distance: of reconstructions to source frames in the attribute network's features; FID is this with
  Inception's, and with so few frames neither compares with published values."""
