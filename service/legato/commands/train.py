"""`legato train`: resumable trainings of a generator and an encoder in folders of their own; a model's curvature."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from legato.commands import _train_curvature, _train_encoder, _train_generator
from legato.commands._numbers import amount, count, seed
from legato.errors import ConfigError

EPILOG = """
A training lives in the folder --out: checkpoint.pt, log.jsonl (losses and figures), samples.png, run.json (options),
and at its end model/, which `legato serve --model` takes. Ctrl-C or SIGTERM writes a checkpoint and stops. The same
command goes on from the last checkpoint, also after a kill; on the CPU with --threads 1 to the same bits.

On a CPU: one training at a time, with no more threads than idle cores (OMP_WAIT_POLICY=PASSIVE where others work beside
it). glibc gives the memory of every step back to the system and fetches it again; keeping it makes training in bfloat16
about 1.3 times as fast:
  MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456 legato train ...

On several GPUs of a machine (a generator; --batch is dealt out among them):
  torchrun --nproc-per-node N -m legato train generator ...
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
        description=f"Trains a StyleGAN2 generator.\n{_train_generator.RECIPES}",
        epilog=EPILOG,
        formatter_class=style,
    )
    _train_generator.add_arguments(generator)
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
    from legato.train.processes import join, leave
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
    group, device = join(str(find_device(args.device)))
    if args.kind == "encoder" and group.size > 1:
        raise ConfigError("an encoder is trained by one process; torchrun is for `legato train generator`")
    with group.in_turn():  # the images are decoded once
        if args.kind == "encoder":
            training, export = _train_encoder.start(args, options, device)
        else:
            training, export = _train_generator.start(args, options, device, group)
    if args.export_only and not training.steps:
        raise ConfigError(f"--export-only: {args.out} holds no checkpoint to export. Train there first")
    if not args.export_only:
        with stopping(end) as stop:
            if not run_with_progress(training, stop):
                if group.leads:
                    say(f"stopped at {training.images:,} of {training.total_images:,} images; the same command goes on")
                leave()
                return 130 if stop.by_signal else 0
    if group.leads:
        say(f"the model is in {export()}")
    leave()
    return 0
