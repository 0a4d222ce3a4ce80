"""`legato bench`: measurements of legato on this machine: its ops, its engine, its server under load."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from legato.commands import _bench_engine, _bench_ops, _bench_server


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`bench` with what it measures."""
    parser = subparsers.add_parser(
        "bench", help="measure the ops, the engine, the server under load", description=__doc__
    )
    kinds = parser.add_subparsers(dest="benchmark", metavar="{ops,engine,server}", required=True)
    for kind in (_bench_ops, _bench_engine, _bench_server):
        kind.add_parser(kinds)


def run(args: argparse.Namespace) -> int:
    """Measures. Raises ConfigError for arguments that do not fit together, BackendUnavailable without kernels."""
    bench: Callable[[argparse.Namespace], int] = args.bench
    return bench(args)
