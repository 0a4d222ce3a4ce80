"""`legato inspect`: what is in a model file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato inspect`."""
    parser = subparsers.add_parser(
        "inspect",
        help="tell what is in a model file, without executing code of it",
        description="Tells what is in a model file, of legato's own or of another code base, without executing code of "
        "it and without reading its weights. Exit code 1 when no network of it can be loaded.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the file")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--json", action="store_true", help="print one JSON object, tensors and all")


def run(args: argparse.Namespace) -> int:
    """Prints the report. 0 if a network can be loaded, else 1."""
    from legato.models.inspection import inspect

    report = inspect(args.file)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report, tensors=args.tensors)
    return 1 if report["problem"] else 0


def _print(report: dict[str, Any], *, tensors: bool) -> None:
    size = f"{report['bytes'] / 2**20:.1f} MiB, {report['container']}"
    print(f"{report['file']}: {size}, {report['format'] or 'no known format'}")
    for name, network in report["networks"].items():
        _table(name, {"tensors": network["tensors"], "parameters": f"{network['parameters']:,}"})
        _rows(network.get("architecture", {}) | network.get("options", {}))
        for note in network["notes"]:
            _rows({"note": note})
    if "digest" in report:
        _table("file", {"sha256": report["digest"], "license": report["license"]})
        _rows({"origin": json.dumps(report["recipe"]["origin"])} if "origin" in report["recipe"] else {})
    if report["metadata"]:
        _table("metadata", report["metadata"])
    if report["entries"]:
        _table("entries", report["entries"])
    if tensors:
        _table("tensors", {t["name"]: f"{t['dtype']:9} {t['shape']}" for t in report["tensors"]})
    else:
        print(f"{len(report['tensors'])} tensors in all; --tensors lists them")
    if report["problem"]:
        print(f"cannot be loaded: {report['problem']}")


def _table(title: str, rows: dict[str, Any]) -> None:
    print(title)
    _rows(rows)


def _rows(rows: dict[str, Any]) -> None:
    for name, value in rows.items():
        print(f"  {name:24} {value}")
