"""What `legato bench engine` and `legato bench server` print."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text


def print_engine(result: dict[str, Any]) -> None:
    """Tables of every section that was measured, then the summary."""
    parts: list[Table | Text] = []
    if "stream" in result:
        parts.append(_streams(result["stream"]))
    if "speed" in result:
        parts.append(_speed(result["speed"]))
    if "quality" in result:
        parts.append(_quality(result["quality"]))
    if "window" in result:
        parts.append(_window(result["window"]))
    if "overload" in result:
        parts.append(_overload(result["overload"]))
    parts.append(_summary(result))
    _print(Group(*parts))


def print_server(result: dict[str, Any]) -> None:
    """A row for every point, then what was held."""
    setting = result["setting"]
    shown = _table(f"{setting['fps']:g} frames/s a session, {setting['policy']}, {setting['deadline_ms']:g} ms")
    for name in (
        "steps asked",
        "sessions",
        "held",
        "frames/s",
        "age p50",
        "p99 (ms)",
        "missed",
        "steps",
        "dB",
        "batch",
    ):
        shown.add_column(name, justify="right")
    for steps, curve in result["curves"].items():
        for point in curve["points"]:
            batch = (point["batches"] or {}).get("synthesize")
            shown.add_row(
                steps,
                str(point["sessions"]),
                str(point["held"]),
                f"{point['fps']:.1f}",
                _age(point, "p50"),
                _age(point, "p99"),
                f"{100 * point['missed_share']:.1f} %",
                _figure(point["steps"], 2),
                _figure(point["psnr_db"], 2),
                _figure(batch, 1),
            )
    held = ", ".join(f"{one['sessions_held']} with {steps} steps" for steps, one in result["summary"].items())
    _print(Group(shown, Text(f"sessions held: {held}")))


def _print(what: Group) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(what)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _age(figures: dict[str, Any], key: str, digits: int = 0) -> str:
    return _figure(figures["age_ms"][key] if figures["age_ms"] else None, digits)


def _streams(runs: list[dict[str, Any]]) -> Table:
    shown = _table("one stream through gRPC and the client")
    for name in ("steps", "loop", "frames/s", "age p50", "p95", "p99 (ms)", "dB"):
        shown.add_column(name, justify="left" if name == "loop" else "right")
    for run in runs:
        for name, loop in run.items():
            if name != "steps":
                age = [_age(loop, key, 1) for key in ("p50", "p95", "p99")]
                row = (str(run["steps"]), name.replace("_", ", "), f"{loop['fps']:.1f}", *age)
                shown.add_row(*row, _figure(loop["psnr_db"], 2))
    return shown


def _speed(found: dict[str, Any]) -> Table:
    shown = _table(f"frames/s, medians over {len(found['rounds'])} rounds")
    for name in ("sessions or batch", "steps", "served", "engine", "bare", "bare + JPEG", "served / bare"):
        shown.add_column(name, justify="right")
    for shape, ratio in found["overhead"].items():
        fps = [f"{found['fps'][f'{who}/{shape}']:.1f}" for who in ("served", "engine", "bare", "bare+jpeg")]
        shown.add_row(*shape.split("/"), *fps, f"{ratio:.3f}")
    shown.caption = "several sessions over one: " + ", ".join(f"{k} {v:.2f}" for k, v in found["batching"].items())
    return shown


def _quality(found: dict[str, Any]) -> Table:
    shown = _table(f"{found['clips']} held-out clips, {found['frames']} frames")
    for name in ("steps", "passes", "stream dB", "dT", "independent dB", "dT "):
        shown.add_column(name, justify="right")
    for steps, stream in found["stream"].items():
        alone = found["independent"][steps]
        figures = (_figure(stream["psnr_db"], 2), _figure(stream["change_error"], 4))
        shown.add_row(
            steps, f"{stream['passes']:g}", *figures, _figure(alone["psnr_db"], 2), _figure(alone["change_error"], 4)
        )
    free, encoder = found["free_w_plus"], found["encoder"]
    shown.caption = (
        f"encoder {encoder['psnr_db']:.2f} dB, dT {encoder['change_error']:.4f}; free W+, {free['steps']} steps, "
        f"1 of {free['every']} frames: {free['psnr_db']:.2f} dB"
    )
    return shown


def _window(found: dict[str, Any]) -> Table | Text:
    if found["gain_db"] is None:
        return Text(f"window: {found['reason']}")
    streams = found["streams"]
    shown = _table(f"window, {found['clips']} clips at {found['fps']:g} frames/s: +{found['gain_db']:.2f} dB")
    for name in ("window", *[f"{n} s" for n in range(len(streams["encoder_on"]["psnr_db_by_second"]))], "age p95 (ms)"):
        shown.add_column(name, justify="right")
    for name, stream in streams.items():
        values = [f"{value:.2f}" for value in stream["psnr_db_by_second"]]
        shown.add_row(name.replace("_", ", "), *values, f"{stream['age_p95_ms']:.1f}")
    return shown


def _overload(found: dict[str, Any]) -> Text:
    return Text(
        f"{found['times']:g}x overload, {found['sessions']} sessions: {found['answered']} of {found['offered']} frames "
        f"answered, p99 {_age(found, 'p99')} of {found['budget_ms']:.0f} ms, dropped {found['dropped']}, "
        f"without a word {found['untold']}"
    )


def _summary(result: dict[str, Any]) -> Text:
    lines = [f"{key}: {value}" for key, value in result["summary"].items() if key != "psnr_by_passes"]
    if "server_peak_memory_mib" in result:
        lines.append(f"server's peak memory: {result['server_peak_memory_mib']:.0f} MiB")
    return Text("\n".join([*lines, f"{result['minutes']} minutes, commit {result['stamp']['commit'][:12]}"]))
