"""`legato train curvature`: what the tracker's steps of a model are measured by."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from legato.commands._numbers import count, seed
from legato.commands._train_options import open_images
from legato.errors import ConfigError

DESCRIPTION = """
Measures the curvature of a generator at the codes of images: in which directions of W+ its image changes most, and how
far corrections of the encoder go along them. The tracker takes its steps in these coordinates, which makes few steps
worth more (docs/methods.md). Writes curvature.safetensors, which `legato serve` uses where it lies in the folder of its
model. heads-128: about 4 minutes on one core.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `legato train curvature`."""
    add = parser.add_argument
    add("--generator", metavar="MODEL", default="heads-128", help="name, file or folder (default: %(default)s)")
    add("--encoder", metavar="MODEL", help="its encoder (default: as --generator)")
    add("--data", metavar="FOLDER", type=Path, required=True, help="renders or images, as for an encoder")
    add("--out", metavar="FOLDER", type=Path, required=True, help="of the model; curvature.safetensors goes there")
    add("--images", metavar="N", type=count, default=3000, help="images that are probed (default: %(default)s)")
    add("--seed", metavar="N", type=seed, default=0, help="(default: %(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:N, or auto: a GPU where there is one (default: %(default)s)")
    add("--threads", metavar="N", type=count, help="CPU threads (default: torch's choice)")


def run(args: argparse.Namespace) -> int:
    """Measures and writes. Raises LegatoError."""
    import torch
    from tqdm import tqdm

    from legato.devices import find_device
    from legato.engine_options import compute_dtype
    from legato.models import load_encoder, load_generator, save_model
    from legato.models.refiners import CURVATURE
    from legato.train.curvature import CurvatureOptions, measure_curvature
    from legato.train.recipes import commit

    begun, device = time.monotonic(), find_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {args.out} cannot be made: {error.strerror}. Give a folder that can") from error
    generator = load_generator(args.generator).to(device)
    encoder = load_encoder(args.encoder or args.generator).to(device)
    dtype = compute_dtype("auto", device)
    generator.autocast_dtype = encoder.autocast_dtype = None if dtype == torch.float32 else dtype
    images = open_images(args.data, args.out, generator.config.resolution).train()
    options = CurvatureOptions(images=args.images, solved=max(16, args.images // 6), seed=args.seed)
    total = min(len(images), options.images) + min(len(images), options.solved)
    with tqdm(total=total, unit="img", disable=None) as bar:
        measured = measure_curvature(
            generator, encoder, lambda index: images.batch(index, device)[0], len(images), options, bar.update
        )
    meta = {
        "recipe": "curvature",
        "data": f"{len(images)} images",
        "images": options.images,
        "seed": args.seed,
        "seconds": round(time.monotonic() - begun),
        "commit": commit(),
        "generator": generator.digest,
        "encoder": encoder.digest,
    }
    header = save_model(measured, args.out / CURVATURE, meta=meta)
    print(f"{args.out / CURVATURE}: sha256 {header.digest[:12]}, from {options.images} images")
    return 0
