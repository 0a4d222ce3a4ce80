"""`legato directions`: find directions for edits, with or without labels, and show what they do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legato.commands._numbers import count
from legato.commands._offline import edit_argument
from legato.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from tqdm import tqdm

    from legato.editing.directions import Directions
    from legato.editing.labeled import Labeled
    from legato.models import Generator
    from legato.models.attributes import AttributeNetwork

SHOWN = 16  # rows of the sheet
STRENGTHS = (-3, -2, -1, 0, 1, 2, 3)
GANSPACE_SAMPLES, LABEL_SAMPLES = 300_000, 4096
MEASURED_ON, TRUNCATION = 32, 0.7  # random heads that tell what a direction moves
BATCH = 16

EPILOG = """
sefa        eigenvectors of the style weights; nothing is sampled
ganspace    principal components of the codes of random z
boundary    normal of a linear boundary between codes with and without what is asked for
style-space the channels of the style space in which those with it stand out; with --space w+ each as the nearest step
            of the latents, which `legato edit` takes too
within      directions of the model that keep to a region (Style Intervention), the same for every image: --edit, --mask

The first two need no labels, and give --count directions. The others are given pictures (--positive, --negative;
the model's encoder inverts them) and a --name, or an attribute network (--network) and names of its --attributes.
With --network, what each direction moves is measured and written down.

The file serves with `legato serve --directions FILE`. Beside it a picture shows a row for each direction, strengths
-3 to 3. Strength 1 is one standard deviation of the codes along the direction; of a style channel, five.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`directions` with its four methods."""
    parser = subparsers.add_parser(
        "directions",
        help="find directions for edits: SeFa, GANSpace, boundaries, StyleSpace",
        description="Finds directions of a generator and writes them to a file, with a picture of what they do.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", choices=("sefa", "ganspace", "boundary", "style-space", "within"))
    parser.add_argument("--model", default="heads-128", help="name or folder (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="a .safetensors file")
    parser.add_argument("--sheet", metavar="FILE.png", type=Path, help="the picture (default: FILE with .png)")
    parser.add_argument("--image", metavar="FILE", type=Path, help="whom it shows (default: the average head)")
    parser.add_argument("--layers", metavar="A-B", help="of W+ that move, as 0-3 or 0-1,4 (default: all)")
    parser.add_argument("--count", metavar="K", type=count, default=10, help="directions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is sampled (default: %(default)s)")
    parser.add_argument(
        "--samples", metavar="N", type=count, help="random codes (default: ganspace 300000, within 16, others 4096)"
    )

    parser.add_argument(
        "--space", choices=("s", "w+"), default="s", help="of style-space: what the channels are steps of (default: s)"
    )

    parser.add_argument(
        "--edit", action="append", type=edit_argument, default=[], metavar="NAME=STRENGTH", help="of within"
    )
    parser.add_argument("--mask", metavar="FILE", type=Path, help="of within: a picture, white where it may change")

    labels = parser.add_argument_group("labels")
    labels.add_argument("--name", help="of the direction that pictures show (with --positive)")
    labels.add_argument("--positive", metavar="PATH", type=Path, nargs="+", help="pictures and folders with it")
    labels.add_argument("--negative", metavar="PATH", type=Path, nargs="+", help="and without (boundary)")
    labels.add_argument(
        "--network", metavar="FILE", type=Path, help="attribute network: a file, or the name of a model that brings one"
    )
    labels.add_argument("--attributes", metavar="NAME", nargs="+", default=[], help="of the network, one or more")
    labels.add_argument(
        "--condition", metavar="NAME", nargs="+", default=[], help="attributes that must not move with them (boundary)"
    )


def run(args: argparse.Namespace) -> int:
    """Finds, measures, writes, shows. Raises ConfigError for options that do not go together, ModelFileError."""
    _check(args)
    from legato.editing.directions import save_directions
    from legato.models import load_generator
    from legato.models.attributes import load_attributes
    from legato.offline.writing import whole

    generator = load_generator(args.model)
    layers = _layers(args.layers, generator.num_layers)
    network = load_attributes(args.network) if args.network else None
    known = network.config.names if network else ()
    if unknown := [name for name in (*args.attributes, *args.condition) if name not in known]:
        raise ConfigError(f"{args.network} reads no {', '.join(unknown)}; it reads {', '.join(known)}")
    base = (
        _encoded(args.model, [args.image], generator)[:1]
        if args.image
        else generator.w_avg.expand(1, generator.num_layers, -1)
    )
    found, provenance = _find(args, generator, network, layers)
    if network is not None:
        found = _measured(generator, network, found, args.seed)
    for name in found.names:
        print(f"{name}: {found.info(name).description}")
    with whole(args.out) as partial:
        save_directions(found, partial, provenance=provenance)
    sheet = args.sheet or args.out.with_suffix(".png")
    rows = _sheet(generator, found, base, sheet)
    print(f"{args.out}: {len(found.names)} directions")
    print(f"{sheet}: {rows} of them, strengths {STRENGTHS[0]} to {STRENGTHS[-1]}")
    return 0


def _check(args: argparse.Namespace) -> None:
    labeled = args.method in ("boundary", "style-space")
    if (args.method == "within") != bool(args.edit and args.mask) or bool(args.edit) != bool(args.mask):
        raise ConfigError("within takes --edit NAME=STRENGTH and --mask FILE, and the others take neither")
    if args.out.suffix != ".safetensors":
        raise ConfigError(f"--out {args.out}: directions are written as .safetensors")
    if args.sheet and args.sheet.suffix.lower() != ".png":
        raise ConfigError(f"--sheet {args.sheet}: the picture is a .png file")
    if not labeled and (args.positive or args.negative or args.attributes or args.condition or args.name):
        raise ConfigError(
            f"{args.method} takes no labels: leave out --positive, --negative, --name, --attributes, --condition"
        )
    if args.condition and (args.method != "boundary" or not args.attributes):
        raise ConfigError("--condition belongs to a boundary with --attributes")
    if args.space == "w+" and args.method != "style-space":
        raise ConfigError(f"--space belongs to style-space: {args.method} finds steps of W+")
    if args.attributes and args.positive:
        raise ConfigError("labels come from pictures or from a network: give --positive or --attributes")
    if args.attributes and not args.network:
        raise ConfigError("--attributes are read by a network: give it with --network")
    if labeled and not args.attributes and not (args.positive and args.name):
        raise ConfigError(
            f"{args.method} needs labels: --name NAME --positive PATH ..."
            f"{' --negative PATH ...' if args.method == 'boundary' else ''}, or --network FILE --attributes NAME ..."
        )
    if args.positive and bool(args.negative) != (args.method == "boundary"):
        raise ConfigError("a boundary lies between --positive and --negative; style-space takes --positive alone")


def _find(
    args: argparse.Namespace, generator: Generator, network: AttributeNetwork | None, layers: tuple[int, ...] | None
) -> tuple[Directions, dict[str, Any]]:
    from legato.editing.ganspace import ganspace
    from legato.editing.labeled import boundary_directions, channel_directions
    from legato.editing.sefa import sefa

    if args.count > generator.config.w_dim:
        raise ConfigError(f"--count {args.count}: w of this generator has {generator.config.w_dim} dimensions")
    if args.method == "sefa":
        factored = sefa(generator, layers=layers, count=args.count)
        return factored.directions(generator), factored.provenance
    if args.method == "ganspace":
        samples = args.samples or GANSPACE_SAMPLES
        if samples < args.count:
            raise ConfigError(f"--samples {samples} are fewer than the {args.count} components asked for")
        with progress(samples, "code") as bar:
            principal = ganspace(
                generator,
                components=args.count,
                samples=samples,
                seed=args.seed,
                on_batch=lambda seen: bar.update(seen - bar.n),
            )
        return principal.directions(generator, layers=layers), principal.provenance
    if args.method == "within":
        return _within(args, generator)
    labeled = _labeled(args, generator, network)
    names = args.attributes or [args.name]
    if args.method == "boundary":
        return boundary_directions(generator, labeled, names, conditions=args.condition, layers=layers, seed=args.seed)
    return channel_directions(generator, labeled, count=args.count, layers=layers, space=args.space)


def _within(args: argparse.Namespace, generator: Generator) -> tuple[Directions, dict[str, Any]]:
    from legato.editing.directions import load_directions
    from legato.editing.regional import IMAGES, regional_directions
    from legato.offline.diffusing import read_mask

    known = load_directions(args.model, generator_digest=generator.digest)
    mask, images = read_mask(args.mask, generator.config.resolution), args.samples or IMAGES
    with progress(0, "step") as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return regional_directions(generator, known, args.edit, mask, images=images, seed=args.seed, on_step=tell)


def _labeled(args: argparse.Namespace, generator: Generator, network: AttributeNetwork | None) -> dict[str, Labeled]:
    from legato.editing.labeled import Labeled, label_samples

    if network is None or not args.attributes:
        positive = _encoded(args.model, args.positive, generator)
        negative = _encoded(args.model, args.negative, generator) if args.negative else positive[:0]
        return {args.name: Labeled(positive, negative)}
    columns = {name: network.config.names.index(name) for name in (*args.attributes, *args.condition)}
    samples = args.samples or LABEL_SAMPLES
    with progress(samples, "code") as bar:
        return label_samples(
            generator, network.standardized, columns, samples=samples, seed=args.seed, on_batch=bar.update
        )


def _encoded(model: str, paths: Sequence[Path], generator: Generator) -> Tensor:
    """Codes [N, L, D] of all frames of pictures, folders and clips."""
    import torch

    from legato.models import load_encoder
    from legato.offline.reading import read
    from legato.offline.sources import find

    encoder, codes = load_encoder(model), []
    for source in find(paths):
        item = read(source, generator.config.resolution)
        for skipped in item.skipped:
            print(f"left out: {skipped}")
        with torch.no_grad():
            codes += [encoder(images) for images in item.images.split(BATCH)]
    return torch.cat(codes)


def _measured(generator: Generator, network: AttributeNetwork, found: Directions, seed: int) -> Directions:
    """The same directions with what they move in `MEASURED_ON` random heads in their infos."""
    from legato.editing.directions import Directions
    from legato.editing.population import sample_w
    from legato.evaluation.found import moved_attributes
    from legato.types import DirectionInfo

    w = next(sample_w(generator, MEASURED_ON, seed=seed + 1))
    heads = generator.w_avg.lerp(w, TRUNCATION)[:, None].expand(-1, generator.num_layers, -1)
    infos = {}
    for moved in moved_attributes(generator, network, heads, found):
        told = f"{found.info(moved.name).description}; moves {moved.attribute} by {moved.response:+.2f} at strength 2"
        space = found.info(moved.name).space
        infos[moved.name] = DirectionInfo(moved.name, told, abs(moved.response), moved.leakage, space)
    vectors = {name: found.step(name) for name in found.names}
    return Directions(vectors, infos, generator_digest=found.generator_digest)


def _sheet(generator: Generator, found: Directions, base: Tensor, path: Path) -> int:
    """A row for each of the first `SHOWN` directions, in the order in which they were found; how many there are."""
    import torch

    from legato.offline.sheets import labeled
    from legato.offline.sources import natural
    from legato.offline.writing import write_png
    from legato.synthetic.dataset import to_uint8
    from legato.types import Edit

    names = sorted(found.names, key=lambda name: natural(Path(name)))[:SHOWN]
    rows = []
    for name in names:
        edits = [(Edit(name, strength),) for strength in STRENGTHS]
        with torch.no_grad():
            drawn = found.images(generator, base.expand(len(edits), -1, -1), edits)
        images = to_uint8(drawn).permute(0, 2, 3, 1).numpy()
        rows.append((name, images))
    write_png(path, labeled(rows, [f"{strength:+d}" if strength else "0" for strength in STRENGTHS]))
    return len(names)


def progress(total: int, unit: str) -> tqdm[Any]:
    """A progress bar on a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=None, mininterval=0.5)


def _layers(text: str | None, count: int) -> tuple[int, ...] | None:
    """The layers that 0-1,4 means."""
    if text is None:
        return None
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"--layers {text}: numbers and ranges are wanted, as 0-3 or 0-1,4")
        chosen |= set(range(int(first), int(last or first) + 1))
    if not chosen or max(chosen) >= count:
        raise ConfigError(f"--layers {text}: W+ of this generator has the layers 0 to {count - 1}")
    return tuple(sorted(chosen))
