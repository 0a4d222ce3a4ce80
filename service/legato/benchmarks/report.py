"""What `legato bench ops` prints."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from legato.benchmarks.summary import best

# Heading by group of contenders; beside plain torch stands the variant that was the fastest.
COLUMNS = {
    "ours": "ours",
    "eager": "plain torch",
    "compile": "compiled",
    "grouped/float32": "grouped fp32",
    "nvlabs": "nvlabs",
    "rosinality": "rosinality",
    "resample2d": "resample2d",
}


def report(result: dict[str, Any]) -> Group:
    """Tables of every case, then of the means, then what did not run and why."""
    parts: list[Table | Text] = []
    tables: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for case in result["cases"]:
        if case["median_ms"]:
            tables.setdefault((case["op"], case["dtype"], case["mode"]), []).append(case)
    parts += [_cases(", ".join(of).replace("_backward", " + backward"), cases) for of, cases in tables.items()]
    parts += [_means(result), _notes(result)]
    return Group(*parts)


def print_report(result: dict[str, Any]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(report(result))


def _table(title: str, *left: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    return table


def _cases(title: str, cases: list[dict[str, Any]]) -> Table:
    shown = [column for column in COLUMNS if any(best(case, column) for case in cases)]
    table = _table(f"{title}: median ms", "layer or size", "B")
    for column in shown:
        table.add_column(COLUMNS[column], justify="right", no_wrap=True)
        if column == "eager":
            table.add_column("(variant)", no_wrap=True)
    table.add_column("best other / ours", justify="right")
    table.add_column("ours / floor", justify="right")
    for case in cases:
        row = [case["name"], str(case["batch"])]
        for column in shown:
            found = best(case, column)
            row.append(_ms(found[1]) if found else "")
            if column == "eager":
                row.append(found[0] if found else "")
        ours = case["median_ms"]["ours"]
        others = [ms for name, ms in case["median_ms"].items() if name != "ours"]
        row.append(f"{min(others) / ours:.2f}" if others else "")
        row.append(f"{ours / case['floor_ms']:.1f}" if case["floor_ms"] else "")
        table.add_row(*row)
    return table


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _means(result: dict[str, Any]) -> Table:
    table = _table("how many times faster ours is, geometric means", "op", "than")
    for name in ("forward", "forward + backward"):
        table.add_column(name, justify="right")
    table.add_column("over")
    for op, values in result["summary"].items():
        for key, value in values.items():
            if key.endswith("_forward_backward"):
                continue
            both = values[f"{key}_forward_backward"]
            if value is None and both is None:
                continue
            entered = result["entered"][op][key if value is not None else f"{key}_forward_backward"]
            batches = ", ".join(map(str, entered["batches"]))
            over = f"{entered['cases']} cases; batch {batches}; {', '.join(entered['dtypes'])}"
            table.add_row(op, key.removeprefix("vs_").replace("_", " "), _times(value), _times(both), over)
    return table


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _notes(result: dict[str, Any]) -> Text:
    """Reasons, each with how often it held."""
    counts: Counter[str] = Counter()
    for case in result["cases"]:
        for name, why in case["not_run"].items():
            counts[f"{'the case' if why.startswith('skipped') and name == 'ours' else name}: {why}"] += 1
    lines = [f"{name}: {peer['status']}" for name, peer in result["peers"].items() if peer["status"] != "ok"]
    lines += [f"{why} ({count} x)" for why, count in counts.most_common(20)]
    speeds = ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in result["ceilings"]["gflops"].items())
    copies = ", ".join(f"{int(size) >> 20} MiB {value:.0f} GB/s" for size, value in _copies(result))
    threads, took = result["setting"]["threads"], result["setting"]["measured_seconds"]
    head = f"{result['setting']['device']}, threads: {threads}, {took:.0f} s; ceilings: {speeds}; copies: {copies}"
    return Text("\n".join([head, *(f"not run: {line}" for line in lines)]))


def _copies(result: dict[str, Any]) -> list[tuple[str, float]]:
    return list(result["ceilings"]["copy_gb_per_s"].items())
