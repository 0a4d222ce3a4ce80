"""The options of `legato train encoder`, and how its three trainings start."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from legato.commands._numbers import amount
from legato.commands._train_options import Started, open_images
from legato.errors import ConfigError

if TYPE_CHECKING:
    from legato.models.generator import Generator
    from legato.train.recipes import Options

OBJECTIVES = """
--objective reconstruction: L1, MSE and a Laplacian pyramid, eyes and mouth weighing more; codes near one latent.
--objective in-domain: the domain-guided encoder of Zhu et al. 2020, for real images: MSE, a perceptual term and a
discriminator that learns beside it (R1 every 16th step, weight 10). Their weights are the defaults: perceptual 5e-5 for
the features of vgg16-in_domain, adversarial 0.08 (their code; the paper says 0.1).
--residual: an encoder R(x, G(w), w) -> dw that moves the codes of one trained before, also where a correction is
carried from frame to frame. Needs --runs, where the streams come from that it is trained on.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All that the two kinds of encoders have and a generator has not."""
    add = parser.add_argument
    add("--generator", metavar="MODEL", default="heads-128", help="name, file or folder (default: %(default)s)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="FOLDER", type=Path, help="renders or images, as for a generator")
    source.add_argument("--samples", action="store_true", help="learn from the generator's own samples")
    add("--objective", choices=("reconstruction", "in-domain"), default="reconstruction", help="(default: %(default)s)")
    add(
        "--adversarial",
        metavar="X",
        type=amount,
        help="weight of a discriminator's loss (default: in-domain 0.08; reconstruction 0: none, otherwise at the end)",
    )
    add(
        "--perceptual",
        metavar="NAME",
        help="features of the in-domain objective: vgg16-in_domain, lpips-alex, attributes or another network of "
        "`legato.models.perceptual` (default: none; an L1 Laplacian pyramid stands in)",
    )
    add("--perceptual-weights", metavar="FILE", type=Path, help="their weights (default: torchvision's cache)")
    add(
        "--perceptual-weight",
        metavar="X",
        type=amount,
        help="weight of the term (default: vgg16-in_domain 5e-5, pyramid 1, others 0.8)",
    )
    residual = parser.add_argument_group("residual encoder")
    residual.add_argument("--residual", action="store_true", help="train one, in place of an encoder")
    residual.add_argument("--encoder", metavar="MODEL", help="it corrects this one (default: as --generator)")
    residual.add_argument("--runs", metavar="FOLDER", type=Path, help="what `legato render --dataset --runs` made")


def start(args: argparse.Namespace, options: Options, device: str) -> Started:
    """The training that the options ask for, from its checkpoint if it has one, and its export. Raises LegatoError."""
    from legato.models import load_generator

    _check(args)
    generator = load_generator(args.generator)
    if args.residual:
        return _start_residual(args, generator, options, device)
    from legato.train import recipes
    from legato.train.encoder import EncoderTraining

    if args.objective == "in-domain":
        config = recipes.in_domain_config(generator, options, args.adversarial, args.perceptual, args.perceptual_weight)
    else:
        config = recipes.encoder_config(generator, options, args.adversarial or 0.0)
    features = None
    if args.perceptual:
        from legato.models.perceptual import load_perceptual

        features = load_perceptual(args.perceptual, args.perceptual_weights)
    data = None if args.samples else open_images(args.data, args.out, generator.config.resolution)
    kind = f"encoder of generator {generator.digest[:12]} from {'samples' if args.samples else 'images'}"
    recipes.claim(args.out, kind, config)
    read, held_out = (data.train, data.held_out()) if data else (None, None)
    training = EncoderTraining(config, args.out, generator, read, held_out, device, features)

    def export() -> Path:
        source = f"{len(training.data)} images" if training.data is not None else "the generator's samples"
        recipe = "encoder" if args.objective == "reconstruction" else "in-domain encoder"
        return recipes.export_encoder(training, args.generator, recipes.provenance(recipe, training, source))

    return training, export


def _start_residual(args: argparse.Namespace, generator: Generator, options: Options, device: str) -> Started:
    from legato.models import load_encoder
    from legato.train import recipes
    from legato.train.residual import ResidualTraining

    encoder = load_encoder(args.encoder or args.generator)
    config = recipes.residual_config(generator, encoder, options)
    resolution = generator.config.resolution
    data, runs = (open_images(folder, args.out, resolution) for folder in (args.data, args.runs))
    if not runs.rendered:
        raise ConfigError(
            f"--runs names renders of which every four in a row show one moving head, and {args.runs} holds images "
            "alone. Make them with: legato render --dataset FOLDER --runs --images N"
        )
    kind = f"residual encoder of generator {generator.digest[:12]} and encoder {encoder.digest[:12]}"
    recipes.claim(args.out, kind, config, free=("images",))
    training = ResidualTraining(
        config, args.out, generator, encoder, data.train, runs.train(), data.held_out(), runs.held_out(), device
    )

    def export() -> Path:
        source = f"{len(training.data)} images, {len(training.runs)} images of runs"
        meta = recipes.provenance("residual encoder", training, source)
        return recipes.export_residual(training, args.generator, args.encoder or args.generator, meta)

    return training, export


def _check(args: argparse.Namespace) -> None:
    """Raises ConfigError where options do not go together."""
    if args.objective != "in-domain":
        for name in ("perceptual", "perceptual_weights", "perceptual_weight"):
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} belongs to --objective in-domain")
    elif args.samples:
        raise ConfigError("--objective in-domain learns from real images: give --data FOLDER in place of --samples")
    if not args.residual:
        for name in ("encoder", "runs"):
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name} belongs to --residual")
    elif args.samples or args.runs is None:
        raise ConfigError(
            "--residual learns from --data FOLDER and --runs FOLDER. Make runs, the frames of moving heads, with: "
            "legato render --dataset FOLDER --runs --images N"
        )
    elif args.objective == "in-domain" or args.adversarial:
        raise ConfigError("--residual has one objective, that of reconstruction, without a discriminator")
    elif args.channel_base or args.channel_max:
        raise ConfigError("--residual has the sizes of the encoder that it corrects; --channel-base and -max do not go")
