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
    from legato.offline.reading import Reading


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model, and what compares pictures beside it."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="heads-128", help="name or folder (default: %(default)s)")
    model.add_argument("--encoder", metavar="MODEL", help="name, file or folder of another encoder")
    model.add_argument("--delta", type=Path, metavar="FILE", help="what `legato tune` made of the model's generator")
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
        delta=args.delta,
        device=args.device,
        precision=args.precision,
        perceptual=args.perceptual,
        weights=args.perceptual_weights,
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Which frames, and their shape."""
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument(
        "--frames", type=_part, default=(None, None), metavar="A:B", help="of each input, from A to before B, or last:N"
    )
    inputs.add_argument(
        "--square",
        choices=("auto", "letterbox", "crop"),
        default="auto",
        help="of pictures of another shape; auto: as the model says it was trained, otherwise letterbox (default)",
    )


def reading(args: argparse.Namespace, model: Model) -> Reading:
    """What these options ask for."""
    from legato.offline.reading import Reading

    first, end = args.frames
    return Reading(first, end, model.square if args.square == "auto" else args.square)


def _part(text: str) -> tuple[int | None, int | None]:
    first, colon, end = text.partition(":")
    if first == "last" and end.isdecimal() and int(end):
        return -int(end), None
    if not colon or not all(part == "" or part.isdecimal() for part in (first, end)):
        raise argparse.ArgumentTypeError(f"frames are A:B, counted from 0, or last:N; got {text!r}")
    return int(first) if first else None, int(end) if end else None


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
