"""One source restored: pictures, codes, a comparison and a report in a folder of its own, resumable as an inversion."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import legato
from legato.errors import ConfigError, InvalidInput
from legato.inversion import Checkpoint, Composition, MultiCodeOptions
from legato.inversion.methods import FRAMES_PER_BATCH, InvertedClip, Progress
from legato.losses import psnr
from legato.offline.code_roles import roles_sheet
from legato.offline.codes import Codes, history, save_codes
from legato.offline.inverting import STATE, pixels
from legato.offline.networks import Model
from legato.offline.reading import Item
from legato.offline.sheets import labeled, spread
from legato.offline.tasks import Task
from legato.offline.writing import write_frames, write_json, write_png
from legato.restoration import CalibratedEncoder, Degradation, Restoration, calibrate, restore, suggested
from legato.restoration.calibration import SAMPLES

_STEPS = 10  # between two writings of the state

Say = Callable[[str], None]
Report = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class RestoreJob:
    """What is done with every source."""

    model: Model
    task: Task
    out: Path
    codes: int | None = None  # in place of the suggested ones, as the next two
    steps: int | None = None
    resolution: int | None = None
    samples: int = SAMPLES  # of the calibration
    roles: bool = False
    restart: bool = False  # what is there of an earlier run is replaced
    encoders: dict[float, CalibratedEncoder] = field(default_factory=dict)  # by the noise of the pictures

    def options(self, degradation: Degradation) -> MultiCodeOptions:
        """The suggested options with what was asked for in their place."""
        found = suggested(degradation, codes=self.codes or 1, calibrated=self.model.encoder is not None)
        given = {"codes": self.codes, "steps": self.steps, "resolution": self.resolution}
        asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(found, **asked)


def restore_item(item: Item, job: RestoreJob, say: Say, progress: Progress | None = None) -> Report:
    """Restores an item and writes its folder; gives its report. What an earlier run made is left as it is, and told.

    Raises ConfigError for outputs of something else in its place and for what cannot be written, and what `restore`
    raises.
    """
    folder = job.out / item.name
    degradation, degraded = job.task.seen(item.images.to(job.model.generator.w_avg.device))
    options = job.options(degradation)
    identity = _identity(item, job, degradation, options)
    if (report := _known(folder / "report.json", identity, job)) is not None:
        say(f"{item.name}: already done")
        return report
    found = _restored(item, job, degradation, degraded, options, say, progress)
    report = _show(item, job, degradation, degraded, options, found) | {"identity": identity}
    write_json(folder / "report.json", report)
    for state in (job.out / STATE).glob(f"{item.name}.*"):
        state.unlink(missing_ok=True)
    return report


def _identity(item: Item, job: RestoreJob, degradation: Degradation, options: MultiCodeOptions) -> str:
    """A digest of what the result depends on, but for the device and its rounding."""
    task, model = job.task, job.model
    encoder = model.encoder.digest if model.encoder is not None else ""
    about = (task.name, task.factor, task.degrade, task.seed, getattr(degradation, "noise", 0.0), options, job.roles)
    mask = () if task.mask is None else (task.mask,)
    parts = (torch.from_numpy(item.frames), *mask, *about, model.generator.digest, encoder)
    return Checkpoint(Path()).about(*parts).identity


def _known(path: Path, identity: str, job: RestoreJob) -> Report | None:
    """The report of an earlier run, with all its files there. Raises ConfigError where it is of something else."""
    if job.restart or not path.exists():
        return None
    try:
        report: Report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if report.get("identity") != identity:
        raise ConfigError(
            f"{path.parent} holds what another input, model or option gave ({report.get('method', 'unknown')}). Name "
            "another --out, or give --restart to replace it"
        )
    return report if all((path.parent / name).exists() for name in report.get("files", ())) else None


def _restored(
    item: Item,
    job: RestoreJob,
    degradation: Degradation,
    degraded: Tensor,
    options: MultiCodeOptions,
    say: Say,
    progress: Progress | None,
) -> list[Restoration]:
    """One for each batch of frames."""
    model, found = job.model, []
    encode = _encoder(item, job, degradation, say)
    state = job.out / STATE / f"{item.name}.safetensors"
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
        for old in state.parent.glob(f"{item.name}.*") if job.restart else ():
            old.unlink()
    except OSError as error:
        raise ConfigError(f"{state.parent} cannot be written: {error.strerror or error}. Name another --out") from error
    encoder = model.encoder.digest if model.encoder is not None else ""
    checkpoint = Checkpoint(state, _STEPS).about(model.generator.digest, encoder, model.precision)
    batches = degraded.split(FRAMES_PER_BATCH)
    for number, batch in enumerate(batches):

        def tell(step: int, done: int = number * options.steps) -> None:
            if progress is not None:
                progress(done + step, options.steps * len(batches))

        try:
            found.append(
                restore(
                    model.generator,
                    batch,
                    degradation,
                    options=options,
                    encode=encode,
                    on_step=tell,
                    checkpoint=checkpoint.numbered(number),
                )
            )
        except InvalidInput as error:
            if error.reason != "OTHER_SOLVE":
                raise
            raise ConfigError(
                f"{state.parent} holds the state of an unfinished run of {item.name!r} with other pictures, another "
                "model or other options. Give those to go on with it, --restart to begin anew, or another --out"
            ) from error
    return found


def _encoder(item: Item, job: RestoreJob, degradation: Degradation, say: Say) -> CalibratedEncoder | None:
    """The model's encoder, made to read pictures that are degraded like this item; the same for all alike."""
    if job.model.encoder is None:
        return None
    noise = float(getattr(degradation, "noise", 0.0))
    if noise not in job.encoders:
        told = f" with noise of {noise * 127.5:.0f} levels" if noise else ""
        say(f"{item.name}: the encoder learns to read pictures for {job.task.name}{told}")
        job.encoders[noise] = calibrate(
            job.model.generator, job.model.networks.encode, degradation, samples=job.samples
        )
    return job.encoders[noise]


def _show(
    item: Item,
    job: RestoreJob,
    degradation: Degradation,
    degraded: Tensor,
    options: MultiCodeOptions,
    found: list[Restoration],
) -> Report:
    """Writes the pictures and codes, and gives the report."""
    folder, model = job.out / item.name, job.model
    image, made, baseline = (
        torch.cat([getattr(part, name) for part in found]) for name in ("image", "made", "baseline")
    )
    before = degraded if job.task.name in ("inpaint", "denoise") else baseline
    rows = [("bicubic" if job.task.factor else "before", before), ("restored", image)]
    seen = degraded if degraded.shape != made.shape else degradation.apply(degraded)
    measured: Report = {"seen_psnr_db": _mean(psnr(degradation.apply(made), seen))}
    if job.task.degrade:
        truth = item.images.to(image.device)
        rows.append(("truth", truth))
        measured["psnr_db"], measured["baseline_psnr_db"] = (_mean(psnr(x, truth)) for x in (image, baseline))
    files = ["comparison.png", "latents.npz", write_frames(folder, "restored", pixels(image), item).name]
    columns = spread(len(item.frames))
    sheet = labeled([(name, pixels(row[columns])) for name, row in rows], [item.labels[c] for c in columns])
    write_png(folder / "comparison.png", sheet)
    solves = [part.found.inversion for part in found]
    composition = Composition.joined([part.found.composition for part in found])
    if job.roles:
        picture, measured["importances"] = roles_sheet(model.generator, composition.rows(slice(0, 8)))
        write_png(folder / "roles.png", picture.numpy())
        files.append("roles.png")
    seconds = sum(solve.seconds for solve in solves)
    latents = torch.cat([solve.latents for solve in solves])
    codes = Codes(
        item.name,
        item.kind,
        item.labels,
        item.timing,
        InvertedClip(latents, tuple(range(len(latents))), composition),
        model.generator.digest,
        method=f"restore {job.task.name}",
        seconds=seconds,
        passes_per_frame=sum(solve.passes for solve in solves) / len(latents),
        history=history(solves),
    )
    save_codes(folder / "latents.npz", codes)
    return {
        "name": item.name,
        "frames": len(item.frames),
        "task": job.task.name,
        "method": f"restore {job.task.name}",
        "factor": job.task.factor or None,
        "noise_levels": round(getattr(degradation, "noise", 0.0) * 127.5, 1) or None,
        "degraded_first": job.task.degrade,
        **measured,
        "codes": options.codes,
        "resolution": options.resolution,
        "steps": options.steps,
        "seconds": round(seconds, 2),
        "fitted": item.fitted,
        "skipped": list(item.skipped),
        "precision": model.precision,
        "model": model.name,
        "model_digest": model.generator.digest,
        "legato": legato.__version__,
        "files": files,
    }


def _mean(values: Tensor) -> float:
    return round(float(values.mean()), 3)
