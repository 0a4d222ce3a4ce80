"""One source through a method: codes, pictures, a comparison and a report in a folder of its own.

What was found is kept: a run that was killed goes on from its last state in OUT/.state, and a source whose codes are
there is not inverted again. Both carry a digest of what they depend on, so that nothing goes on towards something else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import legato
from legato.editing.directions import Directions
from legato.errors import ConfigError, InvalidInput, ModelFileError
from legato.inversion.consecutive import ConsecutiveOptions
from legato.inversion.method import Method
from legato.inversion.methods import InvertedClip, Progress, invert_clips
from legato.inversion.state import Checkpoint
from legato.losses import psnr
from legato.offline.codes import Codes, history, load_codes, save_codes
from legato.offline.networks import Model
from legato.offline.reading import ALL_LETTERBOXED, Item, Reading
from legato.offline.sheets import labeled, spread
from legato.offline.writing import write_frames, write_json, write_png
from legato.synthetic.dataset import to_uint8
from legato.types import Edit

STATE = ".state"
_FRAME_STEPS = 32  # steps over a frame between two writings of the state: seconds of work
_FAR_DB = 6.0  # below the encoder's held-out figure: four times the squared error
_LONG = 200  # frames; each takes some 12 MB at 128 pixels
_BATCH = 16

Say = Callable[[str], None]
Report = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What is done with every source."""

    model: Model
    method: Method
    out: Path
    directions: Directions | None = None  # wanted where there are edits
    edits: tuple[Edit, ...] = ()
    restart: bool = False  # what is there of an earlier run is replaced
    how: Reading = ALL_LETTERBOXED  # of the inputs

    @property
    def edit_label(self) -> str:
        return ", ".join(f"{edit.direction} {edit.strength:+g}" for edit in self.edits)

    def folder(self, name: str) -> Path:
        return self.out / name


def invert_item(item: Item, job: Job, say: Say, progress: Progress | None = None) -> Report:
    """Inverts an item and writes its folder; gives its report. What an earlier run made is taken, and told.

    Raises as `codes_of` does.
    """
    folder = job.folder(item.name)
    codes = codes_of(item, job, say, progress)
    if (report := _reported(folder, codes.identity, job)) is not None:
        return report
    report = _show(item, codes, job, say)
    write_json(folder / "report.json", report)
    return report


def codes_of(item: Item, job: Job, say: Say, progress: Progress | None = None) -> Codes:
    """The codes of an item, also in its folder: those of an earlier run, or else found now.

    Raises ConfigError for outputs of something else in its place and for what cannot be written, and what
    `invert_clips` raises.
    """
    path, identity = job.folder(item.name) / "latents.npz", _identity(item, job)
    if not job.restart and (known := _known(path, identity, job)) is not None:
        say(f"{item.name}: already inverted")
        return known
    codes = _invert(item, job, identity, say, progress)
    save_codes(path, codes)
    (path.parent / "report.json").unlink(missing_ok=True)  # of pictures that are no longer these codes'
    for state in (job.out / STATE).glob(f"{item.name}.*"):
        state.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # that of another item is still there
        (job.out / STATE).rmdir()
    return codes


def _identity(item: Item, job: Job) -> str:
    """A digest of what the codes depend on, but for the device and its rounding."""
    model, method = job.model, job.method
    encoder = model.encoder.digest if model.encoder is not None else ""
    about = (method.name, method.options, model.generator.digest, encoder, model.perceptual)
    return Checkpoint(Path()).about(torch.from_numpy(item.frames), *about).identity


def _known(path: Path, identity: str, job: Job) -> Codes | None:
    """The codes of an earlier run. Raises ConfigError where they are of something else."""
    if not path.exists():
        return None
    try:
        codes = load_codes(path, device=job.model.generator.w_avg.device)
    except ModelFileError as error:
        raise ConfigError(f"{error}. Remove it, or give --restart to make it anew") from error
    if codes.identity != identity:
        raise ConfigError(
            f"{path} holds codes that another input, model or method gave ({codes.method or 'unknown'}). Name another "
            "--out, or give --restart to replace them"
        )
    return codes


def _reported(folder: Path, identity: str, job: Job) -> Report | None:
    """The report of an earlier run that made all that is asked for."""
    try:
        report: Report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = report.get("identity") == identity and report.get("edits") == _edits(job)
    return report if same and all((folder / name).exists() for name in report.get("files", ())) else None


def _invert(item: Item, job: Job, identity: str, say: Say, progress: Progress | None) -> Codes:
    model, method = job.model, job.method
    if isinstance(method.options, ConsecutiveOptions) and len(item.frames) < 2:
        raise InvalidInput(
            f"it is a single image, and {method.name} inverts at least 2 together. Give the folder or the clip that it "
            "is from, or take --method in_domain"
        )
    if (
        isinstance(method.options, ConsecutiveOptions)
        and method.options.policy == "whole_clip"
        and len(item.frames) > _LONG
    ):
        say(
            f"{item.name}: all {len(item.frames)} frames are inverted at once; where memory is short, in windows: "
            f"--method {method.label}{',' if ':' in method.label else ':'}policy=disjoint_all,window=32"
        )
    state = job.out / STATE / f"{item.name}.safetensors"
    with _told(state.parent):
        state.parent.mkdir(parents=True, exist_ok=True)
        for old in state.parent.glob(f"{item.name}.*") if job.restart else ():
            old.unlink()
    images = item.images.to(model.generator.w_avg.device)
    checkpoint = Checkpoint(state, max(1, _FRAME_STEPS // len(images)), f"{model.precision} {model.perceptual}")
    try:
        found = invert_clips(model.networks, [images], method, on_step=progress, checkpoint=checkpoint)
    except InvalidInput as error:
        if error.reason != "OTHER_SOLVE":
            raise
        raise ConfigError(
            f"{state.parent} holds the state of an unfinished run of {item.name!r} with other images, another model or "
            "other options. Give those to go on with it, --restart to begin anew, or another --out"
        ) from error
    (clip,) = found.clips
    if lost := len(item.frames) - len(clip.frames):
        say(f"{item.name}: the method gives {lost} of {len(item.frames)} frames no code; the nearest one is held")
    return Codes(
        item.name,
        item.kind,
        item.labels,
        item.timing,
        clip,
        model.generator.digest,
        method.label,
        identity,
        max(found.seconds, sum(solve.seconds for solve in found.solves)),
        found.passes_per_frame,
        history(found.solves),
    )


def _show(item: Item, codes: Codes, job: Job, say: Say) -> Report:
    """Writes the pictures of codes, and gives the report."""
    folder, generator, images = job.folder(item.name), job.model.generator, item.images
    made = codes.clip.images(generator).cpu()
    rows: list[tuple[str, NDArray[np.uint8]]] = [("input", item.frames)]
    first = _encoded(images, job)
    quality = psnr(made, images[list(codes.clip.frames)])
    if first is not None:
        encoder_db = float(psnr(first, images).mean())
        if codes.method != "encoder":
            rows.append(("encoder", pixels(first)))
        if warning := _far(item.name, encoder_db, job.model):
            say(warning)
    rows.append((codes.method, pixels(made)[codes.held]))
    files = [write_frames(folder, "reconstruction", rows[-1][1], item)]
    if job.edits:
        assert job.directions is not None
        restyled = job.directions.restyled(generator, job.edits)
        moved = codes.clip.images(restyled, movement(job.directions, job.edits, codes.clip))
        rows.append((job.edit_label, pixels(moved)[codes.held]))
        files.append(write_frames(folder, "edited", rows[-1][1], item))
    columns = spread(len(item.frames))
    write_png(
        folder / "comparison.png",
        labeled([(name, row[columns]) for name, row in rows], [item.labels[column] for column in columns]),
    )
    return {
        "name": item.name,
        "frames": len(item.frames),
        "frames_with_codes": len(codes.clip.frames),
        "psnr_db": round(float(quality.mean()), 3),
        "psnr_db_worst_frame": round(float(quality.min()), 3),
        "encoder_psnr_db": None if first is None else round(encoder_db, 3),
        "passes_per_frame": round(codes.passes_per_frame, 2),
        "seconds": round(codes.seconds, 2),
        "seconds_per_frame": round(codes.seconds / len(item.frames), 3),
        "method": codes.method,
        "edits": _edits(job),
        "fitted": item.fitted,
        "skipped": list(item.skipped),
        "precision": job.model.precision,
        "perceptual": job.model.perceptual,
        "model": job.model.name,
        "model_digest": codes.model_digest,
        "legato": legato.__version__,
        "files": ["latents.npz", "comparison.png", *(path.name for path in files)],
        "identity": codes.identity,
    }


@torch.no_grad()
def _encoded(images: Tensor, job: Job) -> Tensor | None:
    """G(E(x)), or None without an encoder."""
    if job.model.encoder is None:
        return None
    generator, device = job.model.generator, job.model.generator.w_avg.device
    parts = [generator(job.model.networks.encode(part.to(device))).cpu() for part in images.split(_BATCH)]
    return torch.cat(parts).clamp(-1.0, 1.0)


def _far(name: str, encoder_db: float, model: Model) -> str:
    """A warning where pictures are far from what the model knows, by the model's own figure; else ""."""
    known = model.encoder_psnr
    if known is None or encoder_db > known - _FAR_DB:
        return ""
    return (
        f"{name}: this does not look like what {model.name} was trained on: the encoder's picture of it has "
        f"{encoder_db:.1f} dB, of the model's own kind of pictures {known:.1f} dB. Expect a lookalike, and edits that "
        "mean little; a crop like the model's own pictures, or the method multi_code, comes closer"
    )


def movement(directions: Directions, edits: tuple[Edit, ...], clip: InvertedClip) -> Tensor:
    """What edits in W+ add to every code, [L, D]. Raises InvalidEdit on an unknown name."""
    return directions.move(torch.zeros_like(clip.latents[:1]), [edits])[0]


def pixels(images: Tensor) -> NDArray[np.uint8]:
    """uint8 [T, R, R, 3] of images [T, 3, R, R] in [-1, 1]."""
    shown: NDArray[np.uint8] = to_uint8(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return shown


def _edits(job: Job) -> dict[str, float]:
    return {edit.direction: edit.strength for edit in job.edits}


@contextlib.contextmanager
def _told(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}. Name another --out") from error
