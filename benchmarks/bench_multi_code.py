"""Multi-code inversion and restoration, measured: on held-out rendered heads, and on pictures that the model does not
know (--photos).

Three parts, each kept in the result file when it is done:
    curve-heads, curve-photos  PSNR by the number of codes and by the block where they meet, beside W and W+ with as
                               many steps, and beside W+ with as many passes as 8 codes at 32 pixels take
    restoration                every degradation beside its trivial baseline and, where there is one, a classic method
                               that knows no heads, with the suggested options

A generator pass counts by its multiply-adds: N codes at a block cost N heads and one tail. Perceptual distances are of
the trunk of an attribute network (--attributes), which no loss here uses; LPIPS has no weights offline.

Run it as `python -m benchmarks.bench_multi_code --photos FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from legato.benchmarks.stamp import stamp
from legato.errors import LegatoError
from legato.inversion import MultiCodeOptions, multi_code, w_plus
from legato.losses import perceptual_distance, psnr
from legato.models import Generator, GeneratorConfig, ImageEncoder, load_encoder, load_generator
from legato.models.perceptual import PerceptualNetwork, load_perceptual
from legato.offline import find, labeled, read, write_json, write_png
from legato.restoration import (
    CalibratedEncoder,
    Colorize,
    Degradation,
    Denoise,
    Inpaint,
    SuperResolve,
    calibrate,
    lost_pixels,
    restore,
    suggested,
)
from legato.restoration.colorize import luma
from legato.synthetic.dataset import from_uint8, to_uint8
from legato.synthetic.factors import sample_z
from legato.synthetic.renderer import Renderer

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("curve-heads", "curve-photos", "restoration")
PICTURES = {
    "curve-heads": "multi_code-heads",
    "curve-photos": "multi_code",
    "heads": "restoration",
    "photos": "restoration-photos",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts asked for; 0, or 1 with a message on stderr."""
    args = parser().parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        for part in args.part:
            measured = measure(part, args)
            result = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
            write_json(args.out, result | {"benchmark": "multi_code", part: measured})
    except LegatoError as error:
        print(f"bench_multi_code: {error}", file=sys.stderr)
        return 1
    print(f"written to {args.out}")
    return 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    options.add_argument("--model", default="heads-128", help="name or folder (default: %(default)s)")
    options.add_argument("--heads", type=int, default=12, help="held-out heads, of the split eval (default: 12)")
    options.add_argument(
        "--photos", type=Path, nargs="+", default=[], help="square pictures that the model does not know"
    )
    options.add_argument("--attributes", type=Path, help="an attribute network: perceptual distances")
    options.add_argument("--steps", type=int, default=100, help="of the curves (default: %(default)s)")
    options.add_argument("--codes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 24])
    options.add_argument("--resolutions", type=int, nargs="+", default=[8, 16, 64], help="at 8 codes, beside 32")
    options.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    options.add_argument(
        "--show", type=int, default=2, help="columns of the pictures: so many last images (default: 2)"
    )
    options.add_argument("--pictures", type=Path, default=ROOT / "docs" / "images", help="where the pictures go")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "multi_code.json")
    return options


def measure(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """One part, as the result file holds it."""
    generator, encoder = load_generator(args.model), load_encoder(args.model)
    for part_of_model in (generator, encoder):
        part_of_model.requires_grad_(False)
        part_of_model.autocast_dtype = torch.bfloat16
    side = generator.config.resolution
    heads = Renderer(side)(sample_z(range(args.heads), "eval")).image.clamp(-1.0, 1.0)
    photos = torch.cat([read(source, side).images for source in find(args.photos)]) if args.photos else heads[:0]
    network = load_perceptual("attributes", args.attributes) if args.attributes else None
    setting = {"model_digest": generator.digest, "precision": "bfloat16", "threads": torch.get_num_threads()}
    if part == "restoration":
        sets = {"heads": heads} | ({"photos": photos} if len(photos) else {})
        found: dict[str, Any] = restorations(generator, encoder, sets, network, args)
        found["setting"] = setting | {"heads": len(heads), "photos": len(photos)}
    else:
        images = heads if part == "curve-heads" else photos
        found = curve(generator, encoder, images, network, args, part)
        found["setting"] = setting | {"images": len(images), "steps": args.steps}
    return found | {"stamp": stamp()}


def curve(
    generator: Generator,
    encoder: ImageEncoder,
    images: Tensor,
    network: PerceptualNetwork | None,
    args: argparse.Namespace,
    part: str,
) -> dict[str, Any]:
    """Methods by name, each with its figures."""
    steps, layers = args.steps, generator.num_layers
    start = encoder(images)
    found: dict[str, Any] = {}
    rows = {"input": images}

    def keep(name: str, made: Tensor, passes: float, seconds: float) -> None:
        rows[name] = made
        found[name] = figures(made, images, network) | {"passes": round(passes, 1), "cpu_seconds": round(seconds, 1)}
        print(part, name, found[name], flush=True)

    keep("encoder", generator(start), 1.0, 0.0)
    share = head_share(generator.config, 32)
    for name, space, count in (
        ("w", "w", steps),
        ("w_plus", "w_plus", steps),
        ("w_plus, passes of 8 codes", "w_plus", round(steps * (8 * share + 1 - share))),
    ):
        began = time.process_time()
        solved = w_plus(generator, images, start, layers=layers, space=space, steps=count)  # type: ignore[arg-type]
        keep(name, generator(solved.latents).detach(), 2.0 * count, time.process_time() - began)
    for codes, resolution in [(n, 32) for n in args.codes] + [(8, r) for r in args.resolutions]:
        began = time.process_time()
        options = MultiCodeOptions(codes=codes, resolution=resolution, steps=steps)
        several = multi_code(generator, images, options=options, start=start)
        share = head_share(generator.config, resolution)
        made = several.composition.image(generator).detach()
        keep(f"{codes} at {resolution}", made, 2.0 * steps * (codes * share + 1 - share), time.process_time() - began)
    shown = [name for name in ("input", "w", "w_plus", "1 at 32", "8 at 32", "24 at 32", "16 at 32") if name in rows][
        :6
    ]
    picture(args.pictures / f"{PICTURES[part]}.png", {name: rows[name] for name in shown}, args.show)
    return found


def restorations(
    generator: Generator,
    encoder: ImageEncoder,
    sets: dict[str, Tensor],
    network: PerceptualNetwork | None,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """By set of images the degradations by name, each with its figures."""
    found: dict[str, Any] = {kind: {} for kind in sets}
    rows = {kind: {"truth": images} for kind, images in sets.items()}
    for name, degradation in degradations(generator.config.resolution).items():
        began = time.process_time()
        encode = calibrate(generator, encoder, degradation)
        seconds = time.process_time() - began
        for kind, images in sets.items():
            shots, row = restored(generator, encode, degradation, images, network)
            found[kind][name] = row | {"calibration_cpu_seconds": round(seconds, 1)}
            print(kind, name, found[kind][name], flush=True)
            if name in ("colorize", "super-resolve x8", "inpaint square", "denoise lost .8"):
                rows[kind] |= {f"{name}, baseline": shots["baseline"], f"{name}, restored": shots["restored"]}
    for kind, shown in rows.items():
        picture(args.pictures / f"{PICTURES[kind]}.png", shown, args.show)
    return found


def restored(
    generator: Generator,
    encode: CalibratedEncoder,
    degradation: Degradation,
    images: Tensor,
    network: PerceptualNetwork | None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(pictures by name; figures of the baseline, of the calibrated start and of the restored image)."""
    seen = degradation.apply(images)
    noise = getattr(degradation, "noise", 0.0)
    seen = seen + noise * torch.randn(seen.shape, generator=torch.Generator().manual_seed(1))
    began = time.process_time()
    result = restore(generator, seen, degradation, encode=encode)
    seconds = time.process_time() - began
    begun = degradation.finish(generator(encode(result.baseline)), seen)
    shots = {"baseline": result.baseline, "start": begun, "restored": result.image}
    if (other := classic(degradation, seen)) is not None:
        shots["classic"] = other
    found: dict[str, Any] = {key: figures(shot, images, network) for key, shot in shots.items()}
    if isinstance(degradation, Colorize):
        error, gray = (color_error(shot, images) for shot in (result.image, result.baseline))
        found["color_error_of_gray"] = round(float((error / gray).median()), 3)
    found["won"] = int((psnr(result.image, images) > psnr(result.baseline, images)).sum())
    options = suggested(degradation)
    found["options"] = {key: getattr(options, key) for key in ("codes", "resolution", "steps", "prior_weight")}
    return shots, found | {"cpu_seconds": round(seconds, 1)}


def classic(degradation: Degradation, seen: Tensor) -> Tensor | None:
    """OpenCV's answer: holes by Navier-Stokes inpainting of radius 3, noise by non-local means of strength 15."""
    pixels = [np.ascontiguousarray(image) for image in to_uint8(seen).permute(0, 2, 3, 1).numpy()]
    if (mask := getattr(degradation, "mask", None)) is not None:
        holes = ((1 - mask[0, 0]) * 255).byte().numpy()
        made = [cv2.inpaint(image, holes, 3, cv2.INPAINT_NS) for image in pixels]
    elif isinstance(degradation, Denoise):
        made = [cv2.fastNlMeansDenoisingColored(image, None, 15, 15, 5, 15) for image in pixels]
    else:
        return None
    return from_uint8(torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2))


def degradations(side: int) -> dict[str, Degradation]:
    """Those of the table; holes and noise are the same for every image."""
    square = torch.ones(1, 1, side, side)
    square[..., side * 5 // 16 : side * 11 // 16, side * 5 // 16 : side * 11 // 16] = 0
    known = lost_pixels(side)
    found: dict[str, Degradation] = {"colorize": Colorize()}
    found |= {f"super-resolve x{factor}": SuperResolve(factor) for factor in (4, 8, 16)}
    found |= {"inpaint square": Inpaint(square), "inpaint strokes": Inpaint(strokes(side))}
    found |= {"denoise lost .8": Denoise(known), "denoise noise 25": Denoise(noise=25 / 127.5)}
    return found


def strokes(side: int, count: int = 8) -> Tensor:
    """A mask [1, 1, R, R] with lines of random place, direction and length lost, an eighteenth of the side wide."""
    draw = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    known = torch.ones(side, side)
    for cx, cy, turn, part in torch.rand(count, 4, generator=draw).tolist():
        dx, dy = math.cos(math.pi * turn), math.sin(math.pi * turn)
        along = (x - cx * side) * dx + (y - cy * side) * dy
        across = (x - cx * side) * dy - (y - cy * side) * dx
        known[(along.abs() < side * (0.1 + 0.3 * part)) & (across.abs() < side / 36)] = 0
    return known[None, None]


def head_share(config: GeneratorConfig, resolution: int) -> float:
    """Part of a pass's multiply-adds in 3x3 convolutions that the blocks up to and with `resolution` take."""
    cost = {r: r * r * config.channels(r) ** 2 for r in config.resolutions}
    cost |= {r: cost[r] + r * r * config.channels(r // 2) * config.channels(r) for r in config.resolutions if r > 4}
    return sum(value for r, value in cost.items() if r <= resolution) / sum(cost.values())


def figures(made: Tensor, images: Tensor, network: PerceptualNetwork | None) -> dict[str, float]:
    """PSNR in dB, and the perceptual distance where there is a network."""
    db = psnr(made, images)
    found = {"psnr_db": round(float(db.median()), 2), "mean_psnr_db": round(float(db.mean()), 2)}
    if network is not None:
        maps: Callable[[Tensor], Sequence[Tensor]] = network.features
        distance = perceptual_distance(maps(made.clamp(-1.0, 1.0)), maps(images))
        found["perceptual"] = round(float(distance.median()), 3)
    return found


def color_error(made: Tensor, images: Tensor) -> Tensor:
    """Mean squared error [B] of Cb and Cr, up to their scale: R - Y and B - Y."""
    return ((made - luma(made))[:, ::2] - (images - luma(images))[:, ::2]).square().mean((1, 2, 3))


def picture(path: Path, rows: dict[str, Tensor], show: int) -> None:
    """A row for each name, the last few images of it."""
    shown = {name: to_uint8(images[-show:]).permute(0, 2, 3, 1).cpu().numpy() for name, images in rows.items()}
    count = len(next(iter(shown.values())))
    write_png(path, labeled(list(shown.items()), [""] * count))


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
