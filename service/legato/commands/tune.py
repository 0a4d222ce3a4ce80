"""`legato tune`: a generator tuned to a clip or to pictures, as a small file of differences."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legato.commands import _offline
from legato.commands._numbers import amount, count, layers, seed
from legato.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from legato.offline.networks import Model
    from legato.offline.reading import Item
    from legato.train.tuning import Tuning

EPILOG = """
The pictures are inverted (--method); their codes stay as they are, and the generator's weights move until it gives the
pictures at them (pivotal tuning, Roich et al. 2021). What random codes give is held to what it was. The file holds
the differences in float16 and fits this generator alone. It goes with
  legato invert IN --model MODEL --delta FILE --out DIR
  legato edit IN --model MODEL --delta FILE --edit NAME=STRENGTH --out DIR
  legato serve --model MODEL --deltas FOLDER       and sessions that are opened with its name
FILE.training beside it keeps checkpoint, log and pictures; a killed run goes on where it was.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato tune`."""
    parser = subparsers.add_parser(
        "tune",
        help="a generator tuned to a clip, as a small file",
        description="Tunes a generator's weights to a clip or pictures, at their codes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="IN", help="a video, images, a folder of them; all into one delta")
    add("--out", type=Path, required=True, metavar="FILE", help="a .safetensors file")
    add("--method", default="encoder", metavar="SPEC", help="that finds the pivots (default: %(default)s)")
    add("--every", type=count, default=1, metavar="K", help="tune on every K-th picture, measure on all (default: 1)")
    add("--steps", type=count, default=400, metavar="N", help="of the tuning (default: %(default)s)")
    add("--batch", type=count, default=8, metavar="N", help="pictures of a step (default: %(default)s)")
    add("--rate", type=amount, default=1e-3, metavar="X", help="of Adam, at first (default: %(default)g)")
    add("--locality", type=amount, default=0.1, metavar="X", help="weight of what stays (default: %(default)g)")
    add("--layers", type=layers, metavar="A-B", help="of W+ whose convolutions move, as 3-9 or 0-1,4 (default: all)")
    add("--seed", type=seed, default=1, metavar="N", help="(default: %(default)s)")
    add("--json", action="store_true", help="print the report as JSON")
    _offline.add_reading(parser)
    _offline.add_model(parser)
    _offline.add_machine(parser)


def run(args: argparse.Namespace) -> int:
    """Tunes. 0; 130 interrupted. Raises LegatoError."""
    import math
    import time

    from legato.offline.reading import read
    from legato.offline.running import say
    from legato.offline.sources import find
    from legato.train.console import run_with_progress, stopping

    if args.out.suffix != ".safetensors":
        raise ConfigError(f"--out {args.out}: a delta is written as .safetensors")
    if args.delta is not None:
        raise ConfigError("a delta is tuned from the model's own weights; leave out --delta")
    model = _offline.open_model(args)
    how = _offline.reading(args, model)
    items = [read(source, model.resolution, how=how) for source in find(args.inputs, together=True)]
    for item in items:
        for line in (item.fitted, *item.skipped):
            if line:
                say(line)
    began = time.monotonic()
    training, pivots, images = _prepare(args, model, items)
    with stopping(math.inf) as stop:
        if not run_with_progress(training, stop):
            return _offline.interrupted()
    report = _report(args, model, training, pivots, images)
    report["seconds"] = round(time.monotonic() - began, 1)
    header = training.export(args.out, {**report, "method": args.method, "model": args.model})
    report |= {"delta": str(args.out), "digest": header.digest, "bytes": args.out.stat().st_size}
    print(json.dumps(report, indent=2) if args.json else _told(report))
    return 0


def _prepare(args: argparse.Namespace, model: Model, items: list[Item]) -> tuple[Tuning, Tensor, Tensor]:
    """The tuning, and the codes and images [N, 3, R, R] of all pictures."""
    import numpy as np
    import torch

    from legato.inversion.method import parse_method
    from legato.inversion.methods import invert_clips
    from legato.offline.running import bar, say
    from legato.synthetic.dataset import Heads
    from legato.train.recipes import claim
    from legato.train.tuning import Tuning, TuningConfig, moving_parameters

    chosen = tuple(args.layers) if args.layers is not None else None
    try:
        moving_parameters(model.generator, chosen)
    except ValueError as error:
        raise ConfigError(f"--layers: {error}") from error
    method = parse_method(args.method)
    clips = [item.images.to(model.generator.w_avg.device) for item in items]
    say(f"inverting {sum(len(clip) for clip in clips)} pictures by {method.label}")
    with bar("pivots") as progress:
        found = invert_clips(model.networks, clips, method, on_step=progress)
    if any(clip.composition is not None or clip.noise for clip in found.clips):
        raise ConfigError(f"--method {args.method} gives more than codes, and a pivot is a code; take another method")
    pivots = torch.cat([clip.latents for clip in found.clips])
    images = torch.cat([images[list(clip.frames)] for images, clip in zip(clips, found.clips, strict=True)])
    frames = np.concatenate([i.frames[list(clip.frames)] for i, clip in zip(items, found.clips, strict=True)])
    tuned = frames[:: args.every].transpose(0, 3, 1, 2)
    side = model.resolution // 2
    data = Heads(tuned, np.broadcast_to(np.uint8(0), (len(tuned), 2, side, side)), np.arange(len(tuned)))
    config = TuningConfig(
        steps=args.steps,
        batch=min(args.batch, len(data)),
        rate=args.rate,
        locality=args.locality,
        layers=chosen,
        seed=args.seed,
    )
    folder = args.out.with_suffix(".training")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}. Name another --out") from error
    claim(folder, f"tuning of generator {model.generator.digest[:12]} to {_digest(pivots, tuned)}", config)
    training = Tuning(config, folder, model.generator, pivots[:: args.every].clone(), data, model.networks.features)
    return training, pivots, images


def _report(args: argparse.Namespace, model: Model, training: Tuning, pivots: Tensor, images: Tensor) -> dict[str, Any]:
    """What the delta brought, measured with it as it will be read: in float16."""
    import torch

    from legato.losses import psnr

    def quality(net: Any) -> Tensor:
        with torch.no_grad():
            return torch.cat([psnr(net(w), x) for w, x in zip(pivots.split(16), images.split(16), strict=True)])

    before, after = quality(model.generator), quality(training.rounded().eval())
    on = torch.zeros(len(pivots), dtype=torch.bool, device=before.device)
    on[:: args.every] = True
    report: dict[str, Any] = {
        "pictures": len(pivots),
        "tuned_on": int(on.sum()),
        "psnr_db_before": round(float(before[on].mean()), 3),
        "psnr_db": round(float(after[on].mean()), 3),
    }
    if not on.all():
        report |= {
            "others_psnr_db_before": round(float(before[~on].mean()), 3),
            "others_psnr_db": round(float(after[~on].mean()), 3),
        }
    return {**report, "steps": training.steps}


def _told(report: dict[str, Any]) -> str:
    lines = [f"{report['tuned_on']} pictures: {report['psnr_db_before']:.2f} dB -> {report['psnr_db']:.2f} dB"]
    if "others_psnr_db" in report:
        left = report["pictures"] - report["tuned_on"]
        lines.append(
            f"{left} that it was not tuned on: {report['others_psnr_db_before']:.2f} dB -> "
            f"{report['others_psnr_db']:.2f} dB"
        )
    lines.append(f"{report['delta']}: {report['bytes'] / 1e6:.1f} MB, {report['seconds']:.0f} s")
    return "\n".join(lines)


def _digest(*parts: Any) -> str:
    import hashlib

    import numpy as np

    sha = hashlib.sha256()
    for part in parts:
        sha.update(np.ascontiguousarray(part if isinstance(part, np.ndarray) else part.cpu().numpy()).data)
    return sha.hexdigest()[:12]
