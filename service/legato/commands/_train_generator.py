"""The options of `legato train generator`, and how its two recipes start."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from legato.commands._numbers import amount, count
from legato.commands._train_options import Started, add_shape, open_shaped
from legato.errors import ConfigError

if TYPE_CHECKING:
    from legato.train.data import Data
    from legato.train.processes import Group
    from legato.train.recipes import Options

RECIPES = """
--recipe joint: an encoder and the generator as an autoencoder, from 16 pixels up, then a short adversarial stage, then
the mapping network. Exports generator, encoder, directions and card. Of renders, whose factors are known, the
directions are named and measured; of a clip or other images they are SeFa's.
--recipe gan: StyleGAN2 on any images, for many of them or a GPU. Exports the generator and SeFa's directions.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All that an encoder's training has not."""
    add = parser.add_argument
    add("--recipe", choices=("joint", "gan"), default="joint", help="(default: %(default)s)")
    add(
        "--data",
        metavar="PATH",
        type=Path,
        required=True,
        help="a video, a folder of images, or what `legato render --dataset` made",
    )
    add("--resolution", metavar="N", type=count, default=128, help="pixels (default: %(default)s)")
    add_shape(parser)
    add(
        "--augment",
        choices=("auto", "ada", "none"),
        default="auto",
        help="adaptive augmentation of what the discriminator sees; auto: ada but for renders (default: %(default)s)",
    )
    add("--ada-target", metavar="X", type=amount, default=0.6, help="of r_t, which sets p (default: %(default)s)")
    add("--r1-gamma", metavar="X", type=amount, help="weight of R1 (gan; default: 0.001 N^2 / batch)")
    add("--weights-only", action="store_true", help="of renders: export without directions and card (joint)")


def start(args: argparse.Namespace, options: Options, device: str, group: Group) -> Started:
    """The training that the options ask for, from its checkpoint if it has one, and its export. Raises LegatoError."""
    if args.recipe == "joint":
        return _start_joint(args, options, device, group)
    return _start_gan(args, options, device, group)


def _start_joint(args: argparse.Namespace, options: Options, device: str, group: Group) -> Started:
    from legato.train import recipes
    from legato.train.console import say
    from legato.train.joint import JointTraining

    if args.r1_gamma is not None:
        raise ConfigError("--r1-gamma belongs to --recipe gan; the joint recipe has its own weight")
    recipes.joint_config(args.resolution, options)  # refuses sizes before images are decoded
    data = _open(args)
    if data.rendered and (found := len(data.train())) < recipes.RENDERS_WANTED:
        raise ConfigError(
            f"--recipe joint wants at least {recipes.RENDERS_WANTED} renders; {args.data} holds {found}. Make more "
            f"with: legato render --dataset {args.data} --images N"
        )
    if args.weights_only and not data.rendered:
        raise ConfigError("--weights-only belongs to renders; of other images what goes with the weights takes seconds")
    config = recipes.joint_config(args.resolution, _augmented(args, options, data))
    held_out = data.held_out()
    recipes.claim(args.out, "joint", config)
    training = JointTraining(config, args.out, data.train, held_out, device, group)

    def export() -> Path:
        meta = _told(args, data, recipes.provenance("joint", training, _what(args, data, len(training.heads))))
        return recipes.export_joint(
            training, held_out, meta, weights_only=args.weights_only, rendered=data.rendered, say=say
        )

    return training, export


def _start_gan(args: argparse.Namespace, options: Options, device: str, group: Group) -> Started:
    from legato.train import recipes
    from legato.train.gan import GanTraining

    if args.weights_only:
        raise ConfigError("--weights-only belongs to --recipe joint")
    recipes.gan_config(args.resolution, options, args.r1_gamma)
    data = _open(args)
    config = recipes.gan_config(args.resolution, _augmented(args, options, data), args.r1_gamma)
    recipes.claim(args.out, "gan", config, free=("images",))
    held_out = None if data.rendered else data.held_out()
    training = GanTraining(config, args.out, data.train, device, held_out=held_out, group=group)

    def export() -> Path:
        meta = _told(args, data, recipes.provenance("gan", training, _what(args, data, len(training.data))))
        return recipes.export_gan(training, meta)

    return training, export


def _open(args: argparse.Namespace) -> Data:
    return open_shaped(args.data, args, args.resolution)


def _augmented(args: argparse.Namespace, options: Options, data: Data) -> Options:
    ada = args.augment == "ada" or (args.augment == "auto" and not data.rendered)
    return replace(options, ada_target=args.ada_target if ada else 0.0)


def _what(args: argparse.Namespace, data: Data, images: int) -> str:
    if data.rendered:
        return f"{images} rendered heads"
    return f"{images} {'images' if args.data.is_dir() else f'frames of {args.data.name}'}"


def _told(args: argparse.Namespace, data: Data, meta: dict[str, object]) -> dict[str, object]:
    """With how images were made square, which `legato invert` does likewise."""
    return meta if data.rendered else {**meta, "square": args.square}
