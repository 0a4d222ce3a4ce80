"""`legato convert`: a checkpoint of another code base as a file of legato's own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EPILOG = """
IN is a checkpoint of NVIDIA, rosinality, pSp, e4e (docs/formats.md lists them all), or a file of legato's own.
No code of the file is executed: it is read as data, and any name in it that a checkpoint does not need is refused.

OUT is a .safetensors file, or a folder that `legato serve --model` then takes with its encoder. Its header tells
architecture, digest, license and origin. In float32 the weights are the same bit for bit.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato convert`."""
    parser = subparsers.add_parser(
        "convert",
        help="convert a checkpoint of another code base, without executing code of it",
        description="Converts a StyleGAN2 checkpoint to legato's own format, without executing code of it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", type=Path, help="the checkpoint")
    parser.add_argument("out", metavar="OUT", type=Path, help="a .safetensors file, or a folder")
    parser.add_argument(
        "--network",
        choices=("generator", "discriminator", "encoder"),
        default="generator",
        help="of those in the file (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="of the weights (default: %(default)s)"
    )
    parser.add_argument("--license", metavar="TEXT", help="under which the weights are given (default: not stated)")
    parser.add_argument("--origin", metavar="TEXT", help="where they come from, as an address")
    parser.add_argument(
        "--conv-clamp", metavar="X", type=_positive, help="bound of activations, if the file tells none (NVIDIA: 256)"
    )


def run(args: argparse.Namespace) -> int:
    """Converts, and tells what came of it."""
    import torch

    from legato.models.conversion import convert

    out, header = convert(
        args.source,
        args.out,
        network=args.network,
        dtype=getattr(torch, args.dtype),
        license=args.license,
        origin=args.origin,
        conv_clamp=args.conv_clamp,
    )
    print(f"{out}: {header.kind} of {_size(header.config)}, {args.dtype}, sha256 {header.digest}")
    print(f"license: {header.recipe['license']}")
    for note in header.recipe.get("notes", ()):
        print(f"note: {note}")
    return 0


def _size(config: Mapping[str, Any]) -> str:
    return f"{config['resolution']} px" if "resolution" in config else f"{config['num_layers']} layers"


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0; got {text!r}")
    return value
