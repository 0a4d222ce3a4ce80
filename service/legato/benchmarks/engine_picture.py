"""The pictures of `legato bench engine` and `legato bench server`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Of Okabe and Ito's palette, told apart by the color-blind; and by their marks.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKS = ("o", "s", "^", "D", "v", "P")
GRAY = "0.45"
AGES_SHOWN = 5.0  # frame periods


def draw_engine(result: dict[str, Any], path: Path) -> bool:
    """Quality over passes, steadiness over passes, the window over time; False, and none, where none was measured."""
    quality, window = result.get("quality"), result.get("window", {})
    count = 2 * bool(quality) + ("streams" in window)
    if not count:
        return False
    figure = Figure(figsize=(4.6 * count, 3.9), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    if quality:
        _closeness(axes[0], quality)
        _steadiness(axes[1], quality)
    if "streams" in window:
        _over_time(axes[-1], window)
    _finish(figure, result, path)
    return True


def draw_server(result: dict[str, Any], path: Path) -> bool:
    """The knee: age, frames/s, what was missed, steps, quality and batches over the number of sessions."""
    figure = Figure(figsize=(13.0, 7.2), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True)
    setting = result["setting"]
    for number, (steps, curve) in enumerate(result["curves"].items()):
        style = {"color": COLORS[number % 6], "marker": MARKS[number % 6], "ms": 8 - 1.5 * number, "lw": 1.5}
        points = curve["points"]
        x = [point["sessions"] for point in points]
        label = f"steps asked for: {steps}; sessions held: {curve['held']}"
        ages = [point["age_ms"]["p99"] if point["age_ms"] else math.nan for point in points]
        axes[0][0].plot(x, ages, label=label, **style)
        axes[0][1].plot(x, [point["fps"] for point in points], **style)
        axes[0][2].plot(x, [100 * point["missed_share"] for point in points], **style)
        axes[1][0].plot(x, [point["steps"] or 0.0 for point in points], **style)
        axes[1][1].plot(x, [point["psnr_db"] for point in points], **style)
        axes[1][2].plot(x, [(point["batches"] or {}).get("synthesize") for point in points], **style)
    counts = sorted({point["sessions"] for curve in result["curves"].values() for point in curve["points"]})
    axes[0][0].axhline(1e3 / setting["fps"], color=GRAY, lw=1.0, ls="--")
    axes[0][0].annotate("frame period", (counts[0], 1e3 / setting["fps"]), xytext=(2, 3), textcoords="offset points",
                        fontsize=8, color=GRAY)  # fmt: skip
    axes[0][0].set_ylim(0, min(axes[0][0].get_ylim()[1], AGES_SHOWN * 1e3 / setting["fps"]))
    axes[0][1].plot(counts, [count * setting["fps"] for count in counts], color=GRAY, lw=1.0, ls="--", label="offered")
    axes[0][1].set_ylim(0, 1.15 * max(p["fps"] for curve in result["curves"].values() for p in curve["points"]))
    titles = (
        ("frame age, p99 of the answered, ms", "answered, frames/s", "not answered, % of frames"),
        ("refine steps taken a frame", "PSNR, dB", "frames in a synthesis batch"),
    )
    for row, names in zip(axes, titles, strict=True):
        for place, name in zip(row, names, strict=True):
            place.set_title(name, fontsize=10)
            place.set_xscale("log", base=2)
            place.set_xticks(counts, [str(count) for count in counts])
            place.minorticks_off()
            _plain(place)
    for place in axes[1]:
        place.set_xlabel("sessions", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _finish(figure, result, path, f"{setting['fps']:g} frames/s a session, {setting['policy']}")
    return True


def _closeness(axes: Axes, quality: dict[str, Any]) -> None:
    for number, (kind, name) in enumerate((("stream", "stream"), ("independent", "independent frames"))):
        points = quality[kind].values()
        axes.plot([p["passes"] for p in points], [p["psnr_db"] for p in points], label=name, **_style(number))
    free = quality["free_w_plus"]
    axes.axhline(free["psnr_db"], color=GRAY, lw=1.0, ls="--", label=f"free W+, {free['steps']} steps")
    axes.set_title("PSNR, dB", fontsize=10)
    _over_passes(axes)


def _steadiness(axes: Axes, quality: dict[str, Any]) -> None:
    for number, (kind, name) in enumerate((("stream", "stream"), ("independent", "independent frames"))):
        points = quality[kind].values()
        axes.plot([p["passes"] for p in points], [p["change_error"] for p in points], label=name, **_style(number))
    axes.axhline(quality["encoder"]["change_error"], color=GRAY, lw=1.0, ls=":", label="encoder alone")
    axes.set_title("error of the change from frame to frame", fontsize=10)
    axes.set_ylim(bottom=0)
    _over_passes(axes)


def _over_time(axes: Axes, window: dict[str, Any]) -> None:
    for number, (name, stream) in enumerate(window["streams"].items()):
        values, (what, switch) = stream["psnr_db_by_second"], name.split("_")
        axes.plot([n + 0.5 for n in range(len(values))], values, label=f"{what}, window {switch}", **_style(number))
    axes.axvline(window["after_seconds"], color=GRAY, lw=1.0, ls=":")
    axes.set_title(f"PSNR of a {window['fps']:g} frames/s stream without steps, dB", fontsize=10)
    axes.set_xlabel("seconds", fontsize=9)
    _plain(axes)
    axes.legend(frameon=False, fontsize=8)


def _over_passes(axes: Axes) -> None:
    axes.set_xlabel("generator passes a frame", fontsize=9)
    _plain(axes)
    axes.legend(frameon=False, fontsize=8)


def _style(number: int) -> dict[str, Any]:
    return {"color": COLORS[number], "marker": MARKS[number], "ms": 5, "lw": 1.5}


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", color="0.92", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(figure: Figure, result: dict[str, Any], path: Path, what: str = "") -> None:
    stamp, setting = result["stamp"], result["setting"]
    where = stamp["gpu"] or f"{stamp['cpus']} cores of {stamp['cpu']}"
    words = [setting["model"], what, where, f"legato {stamp['commit'][:10]}", "quick" if setting["quick"] else ""]
    figure.suptitle(", ".join(filter(None, words)), fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
