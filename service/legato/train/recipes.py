"""What a few options mean in full: the configurations of the trainings, and what a finished one leaves behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import legato
from legato.errors import ConfigError
from legato.models.encoder import EncoderConfig
from legato.models.files import save_model
from legato.models.generator import GeneratorConfig
from legato.synthetic.dataset import Heads
from legato.synthetic.factors import Z_DIM
from legato.train.finish import finish, fit_weights
from legato.train.gan import GanConfig, GanTraining
from legato.train.joint import HEADS_128, JointConfig, JointTraining, Phase
from legato.train.own import finish_own, write_sefa
from legato.train.training import CHECKPOINT, Precision, Training

MODEL = "model"  # folder below a training's own that receives what it exports
RUN = "run.json"  # what is trained in a folder
RENDERS_WANTED = 1024  # the joint recipe judges its mapping on 512 renders that no fit sees
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What the trainings have in common; None: the recipe's own choice."""

    images: int | None = None
    batch: int | None = None
    seed: int = 1
    precision: Precision = "bfloat16"
    checkpoint_seconds: float = 240
    channel_base: int | None = None
    channel_max: int | None = None
    ada_target: float = 0.0  # of a generator's training; 0: nothing is augmented


def joint_config(resolution: int, options: Options) -> JointConfig:
    """The recipe of heads-128, at any resolution of 32 pixels and more. Raises ConfigError."""
    with sizes():
        base = options.channel_base or 32 * resolution
        generator = GeneratorConfig(
            resolution, Z_DIM, 256, 4, channel_base=base, channel_max=options.channel_max or 256
        )
        encoder = EncoderConfig(resolution, generator.num_layers, generator.w_dim, channel_base=16 * resolution)
    return JointConfig(
        generator,
        encoder,
        discriminator_base=max(base // 2, resolution),
        phases=joint_phases(resolution, options.images, options.batch),
        seed=options.seed,
        checkpoint_seconds=options.checkpoint_seconds,
        precision=options.precision,
        ada_target=options.ada_target,
    )


def joint_phases(resolution: int, images: int | None = None, batch: int | None = None) -> tuple[Phase, ...]:
    """The phases of heads-128 ending at `resolution`, scaled to `images` in all and `batch` at full resolution."""
    *growing, last, adversarial, alone = HEADS_128
    phases = [phase for phase in growing if phase.resolution < resolution]
    between, size = [], last.resolution
    while size < resolution:
        between.append(replace(last, resolution=size, rate_end=last.rate))
        size *= 2
    phases += [*between, *(replace(phase, resolution=resolution) for phase in (last, adversarial, alone))]
    share = images / sum(phase.images for phase in phases) if images else 1.0
    factor = batch / last.batch if batch else 1.0
    scaled = [(max(1, round(phase.images * share)), max(1, round(phase.batch * factor))) for phase in phases]
    return tuple(replace(phase, images=n, batch=b) for phase, (n, b) in zip(phases, scaled, strict=True))


def gan_config(resolution: int, options: Options, r1_gamma: float | None = None) -> GanConfig:
    """StyleGAN2 of moderate width. R1's weight, unless given, is 0.001 R^2 / batch. Raises ConfigError."""
    with sizes():
        base = options.channel_base or 32 * resolution
        generator = GeneratorConfig(resolution, 256, 256, 8, channel_base=base, channel_max=options.channel_max or 256)
    batch = options.batch or 32
    return GanConfig(
        generator,
        discriminator_base=base,
        images=options.images or 1_000_000,
        batch=batch,
        r1_gamma=0.001 * resolution**2 / batch if r1_gamma is None else r1_gamma,
        precision=options.precision,
        seed=options.seed,
        checkpoint_seconds=options.checkpoint_seconds,
        ada_target=options.ada_target,
    )


@contextmanager
def sizes() -> Iterator[None]:
    """Turns the ValueError of an architecture that cannot be into a ConfigError."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"there is no network of these sizes: {error}") from error


def claimed(folder: Path) -> dict[str, Any] | None:
    """The options of the training that has begun in `folder`; None where there is none. Raises ConfigError."""
    path = folder / RUN
    if not (path.exists() and (folder / CHECKPOINT).exists()):
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{path} is damaged; remove it if this command is the one that began there") from error
    return found


def claim(folder: Path, kind: str, config: Any, *, free: tuple[str, ...] = ()) -> None:
    """Writes down what is trained in `folder`, or checks that it is what was begun there.

    The folder exists. `free` keys of the configuration may change between two starts. Raises ConfigError.
    """
    free = (*free, "checkpoint_seconds")
    asked = json.loads(json.dumps({"kind": kind, **asdict(config)}))
    path, begun = folder / RUN, claimed(folder) or asked
    changed = [key for key in asked.keys() | begun.keys() if key not in free and asked.get(key) != begun.get(key)]
    if changed:
        told = "; ".join(f"{key} was {begun.get(key)} and is now {asked.get(key)}" for key in sorted(changed))
        raise ConfigError(
            f"{folder} holds a training with other options: {told}. Give the options that it was begun with, or "
            "another --out"
        )
    path.write_text(json.dumps({"config": asked}, indent=1) + "\n", encoding="utf-8")


def provenance(kind: str, training: Training, data: str) -> dict[str, Any]:
    """What goes into the header of the exported files: recipe, commit, data, time, figures."""
    with torch.no_grad():
        figures = {name: round(value, 3) for name, value in training.figures().items()}
    return {
        "recipe": kind,
        "data": data,
        "images": training.images,
        "seed": training.seed,
        "device": training.device.type,
        "hours": round(training.log.seconds / 3600, 3),
        "legato": legato.__version__,
        "commit": commit(),
        **figures,
    }


def commit() -> str:
    """Of the source tree that runs, "-dirty" where it was changed since; "unknown" outside one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def export_joint(
    training: JointTraining,
    held_out: Heads,
    meta: Mapping[str, Any],
    *,
    weights_only: bool,
    say: Say,
    rendered: bool = True,
    mapping_steps: int = 8000,
) -> Path:
    """The mapping network fitted; generator and encoder; unless `weights_only`, directions, figures and card too."""
    folder = training.folder / MODEL
    folder.mkdir(exist_ok=True)
    generator, encoder = training.average_generator, training.average_encoder
    if not rendered:
        finish_own(generator, encoder, training.heads, held_out, folder, recipe=dict(meta), say=say)
        return folder
    if weights_only:
        say("encoding the renders, fitting the mapping network")
        fit_weights(generator, encoder, training.heads, folder, dict(meta), mapping_steps)
    else:
        work = training.folder / "work"
        finish(generator, encoder, training.heads, held_out, folder, work=work, recipe=dict(meta), say=say)
    return folder


def export_gan(training: GanTraining, meta: Mapping[str, Any]) -> Path:
    """The averaged generator, and SeFa's directions of it."""
    folder = training.folder / MODEL
    folder.mkdir(exist_ok=True)
    save_model(training.average, folder / "generator.safetensors", meta=meta)
    write_sefa(folder)
    return folder
