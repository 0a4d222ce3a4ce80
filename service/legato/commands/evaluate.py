"""`legato evaluate`: inversion methods beside each other on clips of which the truth is known, in one report."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legato import config
from legato.commands._numbers import count, positive, whole
from legato.errors import ConfigError, InvalidInput, LegatoError

if TYPE_CHECKING:
    from legato.evaluation.prepare import Choices, Prepared
    from legato.inversion.method import Method

SIX = ("encoder", "w", "w_plus", "in_domain", "consecutive", "multi_code")
QUICK: Mapping[str, Any] = {"clips": 12, "frames": 4, "passes": 50, "edited": ("smile", "yaw", "skin_tone")}
USUAL: Mapping[str, Any] = {"clips": 12, "frames": 8, "passes": None, "edited": None}

EPILOG = """
protocols:
  rendered     held-out rendered heads: exact flow, and the same heads rendered with an attribute really changed
  synthetic    codes of random z moved along the generator's own directions: the latents are known
  folder:DIR   videos and sub-folders of images in DIR; nothing is known of them. Letterboxed, no face is aligned

methods:
  NAME, or NAME:key=value,key=value with the options of the method, or NAME:released for its paper's own. For instance
    legato evaluate --methods consecutive consecutive:share=static,consistency=none w_plus:steps=500
  A name or key that is not known is answered with those that are.

figures:
  PSNR, SSIM, MSE, LPIPS, the distance in an attribute network's maps, identity, latent error (synthetic); warp error,
  dT, TL-ID, TG-ID; response, leakage and identity of edits; agreement with the true edit (rendered; synthetic: the
  generator's own); passes, seconds and memory a frame; Frechet distance. Medians over clips, with quartiles. What a
  network reads is read by one that no loss has used: attributes.safetensors of the model, or --attributes.

files:
  OUT/report.md, report.json, comparison.png, and OUT/results: a method that is finished there is not run again, so an
  interrupted command is started again as it was, and one list of methods may be split over several commands with one
  --out and one --cache, at the same time: the report is made of all that are finished with the same settings.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Options of `legato evaluate`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="compare inversion methods on clips whose truth is known",
        description="Compares inversion methods: protocols x methods x metrics, in one report with pictures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what")
    add = what.add_argument
    add("--model", default="heads-128", metavar="M", help="name or folder of the model (default: %(default)s)")
    add("--protocol", default="rendered", metavar="P", help="rendered, synthetic or folder:DIR (default: %(default)s)")
    add("--methods", nargs="+", default=SIX, metavar="SPEC", help=f"(default: {' '.join(SIX)})")
    add("--passes", type=count, metavar="N", help="generator passes a frame: sets the steps of every method alike")
    add("--clips", type=count, metavar="N", help=f"(default: {USUAL['clips']})")
    add("--frames", type=count, metavar="N", help=f"of each clip (default: {USUAL['frames']})")
    add("--fps", type=positive, default=12.5, metavar="X", help="of rendered clips (default: %(default)s)")
    add("--seed", type=whole, default=0, metavar="N", help="other heads and motion, other z (default: %(default)s)")
    edits = parser.add_argument_group("edits and judges")
    add = edits.add_argument
    add("--attributes-edited", nargs="+", metavar="A", help="directions (default: six that are read well)")
    add("--strength", type=positive, default=1.0, metavar="X", help="standard deviations (default: %(default)s)")
    add("--attributes", type=Path, metavar="FILE", help="the judging attribute network (default: the model's)")
    add("--lpips", default="alex", choices=("alex", "vgg", "squeeze"), help="its backbone (default: %(default)s)")
    add("--lpips-weights", type=Path, metavar="FILE", help="of the backbone (default: torchvision's cache)")
    add("--perceptual", default="pyramid", metavar="NAME", help="of the methods' objective (default: %(default)s)")
    add("--perceptual-weights", type=Path, metavar="FILE", help="of that network")
    how = parser.add_argument_group("how")
    add = how.add_argument
    add("--quick", action="store_true", help=f"within ten minutes on two cores: {_quick_text()}")
    add("--device", default="cpu", help="cpu, cuda, cuda:N or auto (default: %(default)s)")
    add("--threads", type=count, metavar="N", help="CPU threads (default: torch's choice)")
    add(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of convolutions; auto: bfloat16 where the device has it (default: %(default)s)",
    )
    out = parser.add_argument_group("results")
    add = out.add_argument
    add("--out", type=Path, default=Path("out/evaluate"), metavar="DIR", help="(default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="the report once more, as JSON")
    add("--cache", type=Path, metavar="DIR", help="where renders are kept (default: legato in the user's cache)")


def run(args: argparse.Namespace) -> int:
    """Runs what is not finished and writes the report. Exit code 1 where a method could not run; the others did.

    Raises InvalidInput, ModelFileError, ConfigError, BackendUnavailable before anything has run.
    """
    import torch

    from legato.benchmarks.stamp import stamp
    from legato.evaluation.cost import at_passes
    from legato.evaluation.measure import of_source
    from legato.evaluation.prepare import clips_of, prepare
    from legato.evaluation.results import Results
    from legato.evaluation.run import Setup, run_all

    if args.threads:
        torch.set_num_threads(args.threads)
    methods = _methods(args.methods)
    choices, passes = _choices(args)
    _check_targets(args)
    prepared = prepare(choices)
    with _Bar("picture") as bar:
        protocol = clips_of(choices, prepared, bar.to)
    for line in protocol.told:
        print(line)
    setup = Setup(prepared.networks, prepared.directions, prepared.judges, protocol, prepared.edited)
    if passes is not None:
        methods = [at_passes(method, passes, setup.lengths) for method in methods]
    settings = {**prepared.settings, **protocol.settings, "passes": passes, "quick": args.quick}
    results, stamped = Results(args.out, settings), stamp()
    with _Bar("step") as bar:
        failed = run_all(setup, methods, results, stamped, bar.of, bar.say)
    about = {
        "stamp": dict(stamped),
        "notes": [*(f"{label}: {why}" for label, why in failed.items()), *protocol.told, *prepared.notes],
        "source": of_source(protocol.clips, prepared.judges.attributes),
        "made_with": _made_with(args, choices, prepared, passes),
    }
    _write(args, setup, results, about)
    if failed and len(failed) == len(methods):
        raise LegatoError(f"no method could run; {methods[0].label}: {failed[methods[0].label]}")
    return 1 if failed else 0


def _methods(texts: Sequence[str]) -> list[Method]:
    from legato.inversion.method import parse_method

    methods = [parse_method(text) for text in texts]
    labels = [method.label for method in methods]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise InvalidInput(f"--methods names {twice[0]!r} more than once")
    return methods


def _choices(args: argparse.Namespace) -> tuple[Choices, int | None]:
    """What to evaluate, and the passes; --quick changes what was not said."""
    from legato.evaluation.prepare import Choices

    usual = QUICK if args.quick else USUAL
    edited = tuple(args.attributes_edited) if args.attributes_edited else usual["edited"]
    choices = Choices(
        model=args.model,
        protocol=args.protocol,
        clips=args.clips or usual["clips"],
        frames=args.frames or usual["frames"],
        edited=edited,
        cache=args.cache or config.cache_folder(),
        **{
            name: getattr(args, name)
            for name in (
                "fps", "seed", "strength", "attributes", "lpips", "lpips_weights", "perceptual", "perceptual_weights",
                "device", "precision",
            )
        },
    )  # fmt: skip
    return choices, args.passes or usual["passes"]


def _made_with(args: argparse.Namespace, choices: Choices, prepared: Prepared, passes: int | None) -> dict[str, str]:
    import torch

    settings = prepared.settings
    network = settings["attribute_network"]
    return {
        "model": f"{args.model}: generator `{settings['generator'][:16]}`, encoder `{str(settings['encoder'])[:16]}`",
        "judging attribute network": f"`{network[:16]}`" if network else "none",
        "LPIPS": f"{choices.lpips}" if settings["lpips"] else "not computed",
        "perceptual term of the methods": choices.perceptual,
        "generator passes a frame": f"{passes} for every method" if passes else "each method's own",
        "edits": f"{', '.join(prepared.edited) or 'none'}, {choices.strength:g} standard deviations",
        "seed": str(args.seed),
        "precision, threads": f"{settings['precision']} on {settings['device']}, {torch.get_num_threads()}",
        "quick": "yes: fewer clips, frames and passes than a table should rest on" if args.quick else "no",
    }


def _write(args: argparse.Namespace, setup: Any, results: Any, about: Mapping[str, Any]) -> None:
    from legato.evaluation.report import as_json, markdown
    from legato.evaluation.sheets import comparison
    from legato.offline.writing import whole, write_json

    records = results.all()
    if not records:
        return
    comparison(args.out / "comparison.png", setup.protocol.clips, records, results)
    report = as_json(records, setup.protocol, results.settings, about)
    text = markdown(records, setup.protocol, about, ["comparison.png"])
    with whole(args.out / "report.md") as partial:
        partial.write_text(text, encoding="utf-8")
    for target in filter(None, (args.out / "report.json", args.json)):
        write_json(target, report)
    print(text.partition("\n## Pictures")[0])
    print(f"{args.out / 'report.md'}: {len(records)} methods on {len(setup.protocol.clips)} clips")


def _check_targets(args: argparse.Namespace) -> None:
    """Before an hour of inverting, not after it."""
    for folder in filter(None, (args.out, args.json and args.json.parent)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be made: {error.strerror}. Name a folder that can") from error
    if args.json and args.json.is_dir():
        raise ConfigError(f"--json {args.json} is a folder; name a file")


class _Bar:
    """A progress bar on a terminal: one, that begins anew with every method."""

    def __init__(self, unit: str) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(unit=unit, disable=None, mininterval=0.5)
        self._label = ""

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def to(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def of(self, method: Method, done: int, total: int) -> None:
        if method.label != self._label:
            self._bar.reset(total)
            self._bar.set_description(method.label)
            self._label = method.label
        self.to(done, total)

    def say(self, text: str) -> None:
        self._bar.write(text)


def _quick_text() -> str:
    return f"{QUICK['clips']} clips of {QUICK['frames']} frames, {QUICK['passes']} passes, {', '.join(QUICK['edited'])}"
