"""The options of `legato train encoder`, and how its three trainings start."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from legato.commands._numbers import amount, positive, share
from legato.commands._train_options import Started, add_shape, open_shaped
from legato.errors import ConfigError

if TYPE_CHECKING:
    from legato.models.generator import Generator
    from legato.train.encoder import EncoderTraining, EncoderTrainingConfig
    from legato.train.recipes import Options

OBJECTIVES = """
It learns from the generator's own samples, whose codes are known, and from --data, images or clips of what it will see.
With --within it sees as many images as fit into that time on this machine, which is measured first.
--init goes on from an encoder that was trained before: legato's own, or pSp's or e4e's checkpoint.

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
    add(
        "--data", metavar="IN", type=Path, help="renders, images or a clip, as for a generator (default: samples alone)"
    )
    add(
        "--samples",
        metavar="SHARE",
        nargs="?",
        const=1.0,
        type=share,
        help="of images, the generator's own samples (default: beside --data 0.25, in-domain 0; otherwise all)",
    )
    add_shape(parser)
    add("--init", metavar="MODEL", help="name, file or folder of an encoder to go on from")
    add(
        "--rate", metavar="X", type=positive, help="learning rate (default: 0.0025; with --init 0.001, pSp, e4e 0.0001)"
    )
    add("--within", metavar="MIN", type=positive, help="see as many images as fit into so many minutes on this machine")
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
    return _start_encoder(args, generator, options, device)


def _start_encoder(args: argparse.Namespace, generator: Generator, options: Options, device: str) -> Started:
    from legato.models import load_encoder
    from legato.train import encoder_recipes, recipes
    from legato.train.encoder import EncoderTraining

    begun = time.monotonic()
    init = load_encoder(args.init) if args.init else None
    in_domain = args.objective == "in-domain"
    usual = 1.0 if args.data is None else 0.0 if in_domain else 0.25
    samples = usual if args.samples is None else args.samples
    config = encoder_recipes.encoder_config(
        generator, options, args.adversarial or 0.0, samples=samples, init=init, rate=args.rate
    )
    features = None
    if in_domain:
        config = encoder_recipes.in_domain_config(config, args.adversarial, args.perceptual, args.perceptual_weight)
    if args.perceptual:
        from legato.models.perceptual import load_perceptual

        features = load_perceptual(args.perceptual, args.perceptual_weights)
    data = None if args.data is None else open_shaped(args.data, args, generator.config.resolution)
    read, held_out = (data.train, data.held_out()) if data else (None, None)

    def make(config: EncoderTrainingConfig, folder: Path) -> EncoderTraining:
        return EncoderTraining(config, folder, generator, read, held_out, device, features, init)

    if args.within:
        config = _fitted(config, args, make, begun)
    kind = f"encoder of generator {generator.digest[:12]} from {'images' if data else 'samples'}"
    recipes.claim(args.out, kind, config)
    training = make(config, args.out)

    def export() -> Path:
        sampled = "the generator's samples" if samples or data is None else ""
        images = "" if training.data is None else f"{len(training.data)} images"
        recipe = "in-domain encoder" if in_domain else "encoder"
        source = " and ".join(part for part in (images, sampled) if part)
        return encoder_recipes.export_encoder(training, args.generator, recipes.provenance(recipe, training, source))

    return training, export


def _fitted(
    config: EncoderTrainingConfig,
    args: argparse.Namespace,
    make: Callable[[EncoderTrainingConfig, Path], EncoderTraining],
    begun: float,
) -> EncoderTrainingConfig:
    """With the number of images that fit into --within since `begun`; one that goes on keeps its number."""
    from legato.train.console import say
    from legato.train.pace import images_a_second, images_within
    from legato.train.recipes import claimed

    before = claimed(args.out)
    if before is not None:
        return replace(config, images=int(before["images"]))
    slowest = replace(config, adversarial_share=1.0, discriminator_images=0)
    with tempfile.TemporaryDirectory() as folder:
        rate = images_a_second(make(slowest, Path(folder)))
    left = 60 * args.within - (time.monotonic() - begun)
    images = images_within(rate, left, config.batch)
    say(f"{rate:.3g} images a second here: {images:,} images fit into --within {args.within:g}")
    return replace(config, images=images)


def _start_residual(args: argparse.Namespace, generator: Generator, options: Options, device: str) -> Started:
    from legato.models import load_encoder
    from legato.train import encoder_recipes, recipes
    from legato.train.residual import ResidualTraining

    encoder = load_encoder(args.encoder or args.generator)
    config = encoder_recipes.residual_config(generator, encoder, options)
    resolution = generator.config.resolution
    data, runs = (open_shaped(folder, args, resolution) for folder in (args.data, args.runs))
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
        return encoder_recipes.export_residual(training, args.generator, args.encoder or args.generator, meta)

    return training, export


def _check(args: argparse.Namespace) -> None:
    """Raises ConfigError where options do not go together."""
    if args.objective != "in-domain":
        _refuse(args, ("perceptual", "perceptual_weights", "perceptual_weight"), "belongs to --objective in-domain")
    elif args.data is None:
        raise ConfigError("--objective in-domain learns from real images: give --data FOLDER")
    if args.data is not None and args.samples == 1:
        raise ConfigError("--samples 1 leaves no room for --data: give a share below 1, or no --data")
    if args.within and args.images:
        raise ConfigError("--images says how many, --within how long: give one of them")
    if args.init:
        _refuse(args, ("channel_base", "channel_max"), "does not go with --init, which brings the sizes of its encoder")
    if args.residual:
        _check_residual(args)
    else:
        _refuse(args, ("encoder", "runs"), "belongs to --residual")


def _check_residual(args: argparse.Namespace) -> None:
    if args.data is None or args.runs is None:
        raise ConfigError(
            "--residual learns from --data FOLDER and --runs FOLDER. Make runs, the frames of moving heads, with: "
            "legato render --dataset FOLDER --runs --images N"
        )
    if args.objective == "in-domain" or args.adversarial:
        raise ConfigError("--residual has one objective, that of reconstruction, without a discriminator")
    _refuse(args, ("channel_base", "channel_max"), "does not go with --residual: it has the sizes of the encoder")
    _refuse(args, ("samples", "init", "rate", "within"), "does not go with --residual")


def _refuse(args: argparse.Namespace, names: Sequence[str], told: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} {told}")
