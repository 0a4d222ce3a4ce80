"""`legato train`: resumable trainings of a generator and an encoder in folders of their own; a model's curvature."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from legato.commands import _train_curvature, _train_encoder
from legato.commands._numbers import amount, count, seed
from legato.commands._train_options import Started, open_images
from legato.errors import ConfigError

if TYPE_CHECKING:
    from legato.train.recipes import Options

EPILOG = """
A training lives in the folder --out: checkpoint.pt, log.jsonl (losses and figures), samples.png, run.json (options),
and at its end model/, which `legato serve --model` takes. Ctrl-C or SIGTERM writes a checkpoint and stops. The same
command goes on from the last checkpoint, also after a kill; on the CPU with --threads 1 to the same bits.

On a CPU: one training at a time, with no more threads than idle cores (OMP_WAIT_POLICY=PASSIVE where others work beside
it). glibc gives the memory of every step back to the system and fetches it again; keeping it makes training in bfloat16
about 1.3 times as fast:
  MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456 legato train ...
"""
RECIPES = """
--recipe joint: an encoder and the generator as an autoencoder, from 16 pixels up, then a short adversarial stage, then
the mapping network; for renders of heads, whose factors are known. Exports generator, encoder, directions and card.
--recipe gan: StyleGAN2 on any images. Exports the generator.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`train` with its two trainings."""
    parser = subparsers.add_parser(
        "train", help="train a generator or an encoder, or measure a curvature", description=__doc__
    )
    kinds = parser.add_subparsers(dest="kind", metavar="{generator,encoder,curvature}", required=True)
    style = argparse.RawDescriptionHelpFormatter

    generator = kinds.add_parser(
        "generator",
        help="a StyleGAN2 generator",
        description=f"Trains a StyleGAN2 generator.\n{RECIPES}",
        epilog=EPILOG,
        formatter_class=style,
    )
    generator.add_argument("--recipe", choices=("joint", "gan"), default="joint", help="(default: %(default)s)")
    generator.add_argument(
        "--data",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="what `legato render --dataset` made; with --recipe gan any images, too (their central squares)",
    )
    generator.add_argument("--resolution", metavar="N", type=count, default=128, help="pixels (default: %(default)s)")
    generator.add_argument(
        "--r1-gamma", metavar="X", type=amount, help="weight of R1 (gan; default: 0.001 N^2 / batch)"
    )
    generator.add_argument(
        "--weights-only", action="store_true", help="export generator and encoder without directions and card (joint)"
    )
    _add_common(generator)

    encoder = kinds.add_parser(
        "encoder",
        help="an encoder for a generator",
        description=f"Trains an encoder into W+ for a generator, which stays as it is.\n{_train_encoder.OBJECTIVES}",
        epilog=EPILOG,
        formatter_class=style,
    )
    _train_encoder.add_arguments(encoder)
    _add_common(encoder)

    curvature = kinds.add_parser(
        "curvature", help="what the tracker's steps are measured by", description=_train_curvature.DESCRIPTION
    )
    _train_curvature.add_arguments(curvature)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", metavar="FOLDER", type=Path, required=True, help="the training's folder; one that exists goes on")
    add("--images", metavar="N", type=count, help="images to see in all (default: the recipe's)")
    add("--batch", metavar="N", type=count, help="images of a step at full resolution (default: the recipe's)")
    add("--seed", metavar="N", type=seed, default=1, help="(default: %(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:N, or auto: a GPU where there is one (default: %(default)s)")
    add("--threads", metavar="N", type=count, help="CPU threads (default: torch's choice)")
    add(
        "--precision",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of convolutions (default: %(default)s)",
    )
    add("--channel-base", metavar="N", type=count, help="channels at r pixels: base / r, at most --channel-max")
    add("--channel-max", metavar="N", type=count, help="(default: the recipe's)")
    add("--checkpoint-seconds", metavar="X", type=amount, default=240.0, help="between two (default: %(default)g)")
    add("--minutes", metavar="X", type=amount, help="stop after this long; the same command goes on")
    add("--export-only", action="store_true", help="do not train on: export what the checkpoint holds")


def run(args: argparse.Namespace) -> int:
    """Trains until done, interrupted (exit code 130) or out of --minutes. Raises LegatoError."""
    if args.kind == "curvature":
        return _train_curvature.run(args)
    import torch

    from legato.devices import find_device
    from legato.train.console import run_with_progress, say, stopping
    from legato.train.recipes import Options

    end = math.inf if args.minutes is None else time.monotonic() + 60 * args.minutes
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {args.out} cannot be made: {error.strerror}. Give a folder that can") from error
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True  # every step has the shapes of the one before
    names = ("images", "batch", "seed", "precision", "checkpoint_seconds", "channel_base", "channel_max")
    options = Options(**{name: getattr(args, name) for name in names})
    start = {"encoder": _train_encoder.start, "joint": _start_joint, "gan": _start_gan}
    recipe = "encoder" if args.kind == "encoder" else args.recipe
    training, export = start[recipe](args, options, str(find_device(args.device)))
    if args.export_only and not training.steps:
        raise ConfigError(f"--export-only: {args.out} holds no checkpoint to export. Train there first")
    if not args.export_only:
        with stopping(end) as stop:
            if not run_with_progress(training, stop):
                say(f"stopped at {training.images:,} of {training.total_images:,} images; the same command goes on")
                return 130 if stop.by_signal else 0
    say(f"the model is in {export()}")
    return 0


def _start_joint(args: argparse.Namespace, options: Options, device: str) -> Started:
    from legato.train import recipes
    from legato.train.console import say
    from legato.train.joint import JointTraining

    if args.r1_gamma is not None:
        raise ConfigError("--r1-gamma belongs to --recipe gan; the joint recipe has its own weight")
    config = recipes.joint_config(args.resolution, options)
    data = open_images(args.data, args.out, args.resolution)
    if not data.rendered:
        raise ConfigError(
            f"--recipe joint learns its mapping from the factors of renders, and {args.data} holds images alone. Take "
            "--recipe gan, or a folder made by: legato render --dataset FOLDER --images N"
        )
    if (found := len(data.train())) < recipes.RENDERS_WANTED:
        raise ConfigError(
            f"--recipe joint wants at least {recipes.RENDERS_WANTED} renders; {args.data} holds {found}. Make more "
            f"with: legato render --dataset {args.data} --images N"
        )
    held_out = data.held_out()
    recipes.claim(args.out, "joint", config)
    training = JointTraining(config, args.out, data.train, held_out, device)

    def export() -> Path:
        meta = recipes.provenance("joint", training, f"{len(training.heads)} rendered heads")
        return recipes.export_joint(training, held_out, meta, weights_only=args.weights_only, say=say)

    return training, export


def _start_gan(args: argparse.Namespace, options: Options, device: str) -> Started:
    from legato.train import recipes
    from legato.train.gan import GanTraining

    if args.weights_only:
        raise ConfigError("--weights-only belongs to --recipe joint; the gan recipe exports nothing but weights")
    config = recipes.gan_config(args.resolution, options, args.r1_gamma)
    data = open_images(args.data, args.out, args.resolution)
    recipes.claim(args.out, "gan", config, free=("images",))
    training = GanTraining(config, args.out, data.train, device)
    return training, lambda: recipes.export_gan(
        training, recipes.provenance("gan", training, f"{len(training.data)} images")
    )
