"""`legato-client models`: what the server has, load, unload."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from legato_client.client import Client
from legato_client.model_types import ModelVersion

EPILOG = """
examples:
  legato-client models                     what is served, and what could not be
  legato-client models load face           the newest version in the server's folder; new sessions get it
  legato-client models load face@3 --beside    as face@3 alone; the name goes on opening what it did
  legato-client models unload face@2 --drain   no new sessions; unloaded with the last one

load and unload need a server with --models DIR --allow-model-control.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `models`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("action", nargs="?", choices=("list", "load", "unload"), default="list")
    parser.add_argument("model", nargs="?", default="", metavar="NAME[@VERSION]", help="to load or to unload")
    parser.add_argument("--unloaded", action="store_true", help="list: also what only lies in the server's folder")
    parser.add_argument("--beside", action="store_true", help="load: leave the version that the name opens")
    parser.add_argument("--drain", action="store_true", help="unload: where it is used, with its last session")
    parser.set_defaults(run=models, parser=parser)


def models(args: argparse.Namespace) -> None:
    """Lists, loads or unloads."""
    if (args.action == "list") == bool(args.model):
        args.parser.error("load and unload take NAME[@VERSION], and list takes none")
    name, _, version = args.model.partition("@")
    with Client(args.server) as client:
        if args.action == "list":
            found = client.list_versions(unloaded=args.unloaded)
        elif args.action == "load":
            found = [client.load_model(name, version, beside=args.beside)]
        else:
            left = client.unload_model(name, version, drain=args.drain)
            if args.json:
                print(json.dumps({"in_use": left}))
            else:
                print(f"{args.model}: {f'drains, {left} sessions and calls use it' if left else 'unloaded'}")
            return
    if args.json:
        print(json.dumps([_facts(version) for version in found], indent=2))
        return
    for version in found:
        print(_line(version))


def _facts(version: ModelVersion) -> dict[str, object]:
    """All that is known of a version, in one level."""
    facts = asdict(version)
    return {**(facts.pop("info") or {}), **facts}


def _line(version: ModelVersion) -> str:
    state: str = version.state
    if version.default or version.current:
        state += ", default" if version.default else ", current"
    if version.sessions:
        state += f", {version.sessions} session{'s' if version.sessions > 1 else ''}"
    info, shape, description = version.info, "", ""
    if info is not None:
        shape = f"{info.resolution} px, latents {info.layers} x {info.dim}, sha256 {info.digest[:12]}, "
        description = f"  {info.description}"
    return f"{version.label}  {shape}{state}{description}{f': {version.reason}' if version.reason else ''}".rstrip()
