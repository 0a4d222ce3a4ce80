"""The roofline of a result of `legato bench ops`, and how far from its floor each layer is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from legato.benchmarks.summary import best

# Of Okabe and Ito's palette, told apart by the color-blind; and by their marks.
STYLES = {
    "ours": ("legato", "#0072B2", "o"),
    "eager": ("plain torch, fastest variant", "#E69F00", "s"),
    "compile": ("plain torch, compiled", "#009E73", "^"),
    "grouped/float32": ("grouped, float32", "#CC79A7", "D"),
}
MOST_COLUMNS = 4


def draw(result: dict[str, Any], path: Path) -> bool:
    """Write the picture of the forward passes of modulated_conv2d; False, and none, where no such case ran."""
    columns = _columns(result)
    if not columns:
        return False
    labels = sorted({case["name"] for cases in columns.values() for case in cases}, key=_place)
    groups = [group for group in STYLES if any(best(case, group) for cases in columns.values() for case in cases)]
    lines = 0.19 * len(labels) + 0.9
    figure = Figure(figsize=(max(7.5, 4.6 * len(columns)), 4.3 + lines), layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False, height_ratios=[3.4, lines], sharey="row")
    for index, ((dtype, batch), cases) in enumerate(columns.items()):
        top, bottom = axes[0][index], axes[1][index]
        _roofline(top, cases, result["ceilings"], dtype, groups)
        _floors(bottom, cases, labels, groups)
        top.set_title(f"{dtype}, batch {batch}", fontsize=11)
    axes[0][0].set_ylabel("achieved GFLOP/s")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    stamp, threads = result["stamp"], result["setting"]["threads"]
    where = stamp["gpu"] if result["setting"]["device"].startswith("cuda") else f"{stamp['cpu']}, threads: {threads}"
    figure.suptitle(
        f"modulated_conv2d, forward: {where}, torch {stamp['versions']['torch']}, legato {_short(stamp['commit'])}",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return True


def _place(name: str) -> tuple[bool, int, str]:
    """Of a layer, named as "config-f b64.conv0", in the order of the nets."""
    net, _, layer = name.rpartition(" ")
    block, _, part = layer.partition(".")
    return net == "config-f", int(block[1:]), part


def _short(commit: str) -> str:
    return commit[:10] + ("+" if commit.endswith("+") else "")


def _columns(result: dict[str, Any]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Cases by dtype and batch: the combinations with the most layers."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for case in result["cases"]:
        if case["op"] == "modulated_conv2d" and case["mode"] == "forward" and case["median_ms"]:
            found.setdefault((case["dtype"], case["batch"]), []).append(case)
    kept = sorted(found, key=lambda key: -len(found[key]))[:MOST_COLUMNS]
    dtypes = list(dict.fromkeys(dtype for dtype, _ in found))
    return {key: found[key] for key in sorted(kept, key=lambda key: (dtypes.index(key[0]), key[1]))}


def _roofline(axes: Axes, cases: list[dict[str, Any]], ceilings: dict[str, Any], dtype: str, groups: list[str]) -> None:
    peak = ceilings["gflops"][dtype]
    intensities = [case["gflop"] * 1e3 / case["mbytes"] for case in cases]
    copies = {int(size): speed for size, speed in ceilings["copy_gb_per_s"].items()}
    low, high = min(*intensities, 0.4 * peak / min(copies.values())) / 1.5, max(intensities) * 1.8
    for size, speed in copies.items():
        corner = peak / speed
        memory = size == max(copies)
        name = "memory" if memory else f"{size >> 20} MiB"
        axes.plot([low, corner], [low * speed, peak], color="0.25" if memory else "0.65", lw=1.2 if memory else 0.8)
        if corner > 3 * low:
            angle = math.degrees(math.atan2(speed, 1.0))  # along the line, whatever the axes' scales
            text = axes.text(1.04 * low, 1.1 * low * speed, f"{name}, {speed:.0f} GB/s", fontsize=7, color="0.35")
            text.set(rotation=angle, rotation_mode="anchor", transform_rotates_text=True)
    axes.plot([min(peak / max(copies.values()), high), high], [peak, peak], color="0.25", lw=1.2)
    axes.annotate(
        f"matrix product {peak:.0f} GFLOP/s", (high, peak), xytext=(-2, 3), textcoords="offset points", fontsize=7,
        color="0.35", ha="right",
    )  # fmt: skip
    for group in reversed(groups):
        points = [
            (intensity, case["gflop"] * 1e3 / found[1])
            for case, intensity in zip(cases, intensities, strict=True)
            if (found := best(case, group))
        ]
        _scatter(axes, points, group)
    axes.set(xscale="log", yscale="log", xlim=(low, high * 1.1))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("least work: FLOP per byte that has to move", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", color="0.92", lw=0.6)


def _scatter(axes: Axes, points: Sequence[tuple[float, float]], group: str) -> None:
    label, color, mark = STYLES[group]
    x, y = [point[0] for point in points], [point[1] for point in points]
    first = group == "ours"
    size, layer = (32, 3) if first else (20, 2)
    axes.scatter(x, y, s=size, marker=mark, color=color, alpha=0.85, linewidths=0, label=label, zorder=layer)


def _floors(axes: Axes, cases: list[dict[str, Any]], labels: list[str], groups: list[str]) -> None:
    rows = {name: len(labels) - 1 - index for index, name in enumerate(labels)}
    for group in reversed(groups):
        points = [(found[1] / case["floor_ms"], rows[case["name"]]) for case in cases if (found := best(case, group))]
        _scatter(axes, points, group)
    axes.axvline(1.0, color="0.25", lw=1.2)
    axes.set(xscale="log", ylim=(-0.7, len(labels) - 0.3))
    axes.set_yticks(list(rows.values()), list(rows), fontsize=7.5)
    axes.set_xlabel("time / floor that the measured ceilings set", fontsize=9)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left=min(0.8, axes.get_xlim()[0]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(True, which="major", color="0.92", lw=0.6)
