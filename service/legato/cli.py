"""`legato COMMAND`: parse, run, and say in one line what went wrong."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

import legato
from legato import commands
from legato.errors import LegatoError


def subcommands() -> dict[str, ModuleType]:
    """The modules of legato.commands by the name of their command."""
    names = sorted(info.name for info in pkgutil.iter_modules(commands.__path__) if not info.name.startswith("_"))
    return {name.replace("_", "-"): importlib.import_module(f"{commands.__name__}.{name}") for name in names}


def build_parser(found: dict[str, ModuleType]) -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="legato", description=legato.__doc__)
    parser.add_argument("--version", action="version", version=f"legato {legato.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in found.values():
        module.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Exit codes: 0 done, 1 an error that stderr explains, 2 wrong usage, 130 interrupted."""
    found = subcommands()
    args = build_parser(found).parse_args(arguments)
    try:
        return int(found[args.command].run(args) or 0)
    except LegatoError as error:
        print(f"legato {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
