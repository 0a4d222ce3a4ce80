"""Options that the offline commands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from legato.commands._numbers import count
from legato.errors import InvalidEdit
from legato.types import Edit

if TYPE_CHECKING:
    from legato.offline.networks import Model


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model, and what compares pictures beside it."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="heads-128", help="name or folder (default: %(default)s)")
    model.add_argument("--encoder", metavar="MODEL", help="name, file or folder of another encoder")
    model.add_argument(
        "--perceptual",
        default="pyramid",
        metavar="NET",
        help="beside pixels: pyramid (no weights), attribute, vgg16, lpips, vgg16-in_domain, ... (default: pyramid)",
    )
    model.add_argument("--perceptual-weights", type=Path, metavar="FILE", help="weights of that network")


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Where it runs."""
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto: a GPU if there is one (default)")
    machine.add_argument("--threads", type=count, metavar="N", help="CPU threads (default: torch's choice)")
    machine.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="inside convolutions; auto: bfloat16 where the device has it (default)",
    )


def open_model(args: argparse.Namespace) -> Model:
    """What the options name. Raises ModelFileError, ConfigError."""
    import torch

    from legato.offline.networks import load_model

    if args.threads:
        torch.set_num_threads(args.threads)
    return load_model(
        args.model,
        encoder=args.encoder,
        device=args.device,
        precision=args.precision,
        perceptual=args.perceptual,
        weights=args.perceptual_weights,
    )


def interrupted() -> int:
    """Says that nothing is lost; the exit code."""
    print("\ninterrupted; the same command goes on from here", file=sys.stderr)
    return 130


def edit_argument(text: str) -> Edit:
    """NAME=STRENGTH, for argparse."""
    name, equals, strength = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return Edit(name.strip(), float(strength))
    except InvalidEdit as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except ValueError:
        raise argparse.ArgumentTypeError(f"an edit is NAME=STRENGTH, as in smile=2 or yaw=-1.5; got {text!r}") from None
