"""Ratios of one case, and their geometric means over the cases that ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from legato.benchmarks.rounds import geometric_mean

# What a ratio compares with: all contenders whose name begins so, the fastest of them.
PLAIN = {"vs_eager": "eager/", "vs_compile": "compile/"}
RATIOS: dict[str, dict[str, str]] = {
    "modulated_conv2d": {
        **PLAIN,
        "vs_grouped": "grouped/float32",  # as public implementations run it
        "vs_grouped_same_dtype": "grouped/{dtype}",
        "vs_nvlabs": "nvlabs/",
        "vs_rosinality": "rosinality/",
    },
    "to_rgb": PLAIN,
    "flow_warp": {"vs_grid_sample": "eager/", "vs_grid_sample_compile": "compile/", "vs_resample2d": "resample2d/"},
    "photometric_error": {"vs_grid_sample": "eager/", "vs_grid_sample_compile": "compile/"},
    "synthesis": {"vs_nvlabs": "nvlabs/"},
}
# Where a summary's key comes from another op: warp, masks and error together are what flow_warp is for.
SUMMARY: dict[str, dict[str, tuple[str, str]]] = {
    op: {key: (op, key) for key in keys} for op, keys in RATIOS.items() if op not in ("flow_warp", "photometric_error")
} | {
    "flow_warp": {
        "vs_grid_sample": ("photometric_error", "vs_grid_sample"),
        "vs_grid_sample_compile": ("photometric_error", "vs_grid_sample_compile"),
        "warp_alone_vs_grid_sample": ("flow_warp", "vs_grid_sample"),
        "warp_alone_vs_grid_sample_compile": ("flow_warp", "vs_grid_sample_compile"),
        "warp_alone_vs_resample2d": ("flow_warp", "vs_resample2d"),
    }
}


def ratios(op: str, dtype: str, median: Mapping[str, float]) -> dict[str, float]:
    """How many times faster ours is, by what it is compared with; only what ran."""
    found = {}
    for key, prefix in RATIOS[op].items():
        others = [seconds for name, seconds in median.items() if name.startswith(prefix.format(dtype=dtype))]
        if others and "ours" in median:
            found[key] = min(others) / median["ours"]
    return found


def best(case: Mapping[str, Any], group: str) -> tuple[str, float] | None:
    """(variant, milliseconds) of the fastest contender of a group in a case's result."""
    times = {name: ms for name, ms in case["median_ms"].items() if name.startswith(group)}
    if not times:
        return None
    name = min(times, key=times.__getitem__)
    return name.removeprefix(group).removeprefix("/"), times[name]


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What a result file says of all cases together.

    summary: geometric means by op and comparison, forward, and with _forward_backward behind the key; above 1 ours is
    faster; None where nothing ran. entered: what each is a mean over. breakdown: the same by net, batch and dtype.
    """
    summary: dict[str, dict[str, float | None]] = {}
    entered: dict[str, dict[str, Any]] = {}
    for op, keys in SUMMARY.items():
        summary[op], entered[op] = {}, {}
        for mode, suffix in (("forward", ""), ("forward_backward", "_forward_backward")):
            for key, (source, ratio) in keys.items():
                of = [case for case in results if case["op"] == source and case["mode"] == mode]
                of = [case for case in of if ratio in case["ratios"]]
                summary[op][key + suffix] = geometric_mean(case["ratios"][ratio] for case in of)
                entered[op][key + suffix] = _entered(source, of)
    return {"summary": summary, "entered": entered, "breakdown": _breakdown(results)}


def _entered(op: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "op": op,
        "cases": len(cases),
        "layers": _unique(case["name"] for case in cases),
        "batches": sorted({case["batch"] for case in cases}),
        "dtypes": _unique(case["dtype"] for case in cases),
    }


def _breakdown(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for case in results:
        for net in case["nets"] or [case["name"]]:
            key = (case["op"], net, case["batch"], case["dtype"], case["mode"])
            groups.setdefault(key, []).append(case)
    names = ("op", "net", "batch", "dtype", "mode")
    rows = []
    for group, cases in groups.items():
        ran = [case for case in cases if case["ratios"]]
        keys = _unique(key for case in ran for key in case["ratios"])
        means = {key: geometric_mean(c["ratios"][key] for c in ran if key in c["ratios"]) for key in keys}
        if ran:
            rows.append({**dict(zip(names, group, strict=True)), "cases": len(ran), "ratios": means})
    return rows


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
