"""What an evaluation works with: model, directions and judging networks, and what is not there and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from legato.editing.directions import Directions, load_directions
from legato.engine_options import Precision
from legato.errors import BackendUnavailable, ConfigError, InvalidInput, ModelFileError
from legato.evaluation.footage import folder_clips
from legato.evaluation.known import EDITED, Protocol
from legato.evaluation.measure import Judges
from legato.evaluation.rendered import rendered_clips
from legato.evaluation.synthetic import synthetic_clips
from legato.inversion.methods import Networks
from legato.models import Generator
from legato.models.attributes import SIZE, AttributeNetwork, load_attributes
from legato.models.files import read_header, resolve
from legato.models.perceptual import load_lpips
from legato.offline.networks import PYRAMID, load_model
from legato.synthetic.renderer import Renderer

Progress = Callable[[int, int], object]
NIQE = "NIQE is not offered: no light and maintained package computes it"


@dataclass(frozen=True, slots=True)
class Choices:
    """What was asked for."""

    model: str = "heads-128"
    protocol: str = "rendered"  # or "synthetic", or "folder:DIR"
    clips: int = 12
    frames: int = 8
    fps: float = 12.5  # of rendered clips
    seed: int = 0
    edited: tuple[str, ...] | None = None  # None: those of EDITED that the model has
    strength: float = 1.0  # standard deviations
    attributes: Path | None = None  # the judging network's file; None: the model's
    lpips: str = "alex"
    lpips_weights: Path | None = None
    perceptual: str = PYRAMID  # what the methods' objective compares beside pixels
    perceptual_weights: Path | None = None
    device: str = "cpu"
    precision: Precision = "auto"
    cache: Path = field(default_factory=lambda: Path("cache"))


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Networks, and in words what could not be had."""

    networks: Networks
    directions: Directions | None
    judges: Judges
    edited: tuple[str, ...]
    settings: dict[str, Any]  # JSON values on which figures depend, the protocol's aside
    notes: tuple[str, ...]


def prepare(choices: Choices) -> Prepared:
    """Loads what was asked for. What is named and cannot be had is an error; what is only the default becomes a note.

    Raises ModelFileError, InvalidInput, ConfigError, BackendUnavailable.
    """
    model = load_model(
        choices.model,
        device=choices.device,
        precision=choices.precision,
        perceptual=choices.perceptual,
        weights=choices.perceptual_weights,
    )
    generator, encoder = model.generator, model.encoder
    notes = [NIQE]
    if encoder is None:
        notes.append("the model has no encoder.safetensors: methods that start from an encoder cannot run")
    directions = _directions(choices.model, generator, notes)
    network = _network(choices, generator, notes)
    _check_apart(choices, network)
    judges = Judges(network, _lpips(choices, notes), choices.lpips)
    settings = {
        "model": choices.model,
        "generator": generator.digest,
        "encoder": encoder.digest if encoder else None,
        "directions_of": directions.generator_digest if directions else None,
        "attribute_network": network.digest if network else None,
        "lpips": choices.lpips if judges.lpips else None,
        "perceptual": None if model.perceptual == PYRAMID else model.perceptual,
        "precision": model.precision,
        "device": generator.w_avg.device.type,
    }
    return Prepared(model.networks, directions, judges, _edited(choices, directions), settings, tuple(notes))


def clips_of(choices: Choices, prepared: Prepared, progress: Progress = lambda done, total: None) -> Protocol:
    """The clips of the protocol that was asked for. Raises InvalidInput for one that is not known."""
    generator, network = prepared.networks.generator, prepared.judges.attributes
    kind, _, where = choices.protocol.partition(":")
    sizes = {"clips": choices.clips, "frames": choices.frames}
    if kind == "rendered" and not where:
        return rendered_clips(
            Renderer(generator.config.resolution, device=generator.w_avg.device),
            choices.cache,
            **sizes,
            fps=choices.fps,
            attributes=prepared.edited,
            strength=choices.strength,
            seed=choices.seed,
            progress=progress,
        )
    if kind == "synthetic" and not where:
        if prepared.directions is None:
            raise InvalidInput("the synthetic protocol moves codes along named directions, and the model has none")
        return synthetic_clips(
            generator,
            prepared.directions,
            **sizes,
            attributes=prepared.edited,
            strength=choices.strength,
            seed=choices.seed,
            network=network,
            progress=progress,
        )
    if kind == "folder" and where:
        return folder_clips(
            Path(where),
            generator.config.resolution,
            **sizes,
            attributes=prepared.edited,
            strength=choices.strength,
            network=network,
            progress=progress,
        )
    raise InvalidInput(f"no protocol is named {choices.protocol!r}; there are rendered, synthetic and folder:DIR")


def _directions(name: str, generator: Generator, notes: list[str]) -> Directions | None:
    """The model's, where it has a file of them; one that is damaged or another generator's is an error."""
    if _beside(name, "directions.safetensors") is None:
        notes.append("the model has no directions.safetensors: no edit is measured")
        return None
    return load_directions(name, generator_digest=generator.digest)


def _network(choices: Choices, generator: Generator, notes: list[str]) -> AttributeNetwork | None:
    """The judging network: the file that was named, or the model's own."""
    if generator.config.resolution % SIZE:
        notes.append(f"no attribute network reads {generator.config.resolution} pixels: a multiple of {SIZE} is wanted")
        return None
    if choices.attributes is not None:
        return load_attributes(choices.attributes)
    own = _beside(choices.model, "attributes.safetensors")
    if own is None:
        notes.append(
            "the model has no attributes.safetensors, so identity, trunk distance, Frechet distance, response and "
            "leakage are not computed: name an attribute network (--attributes FILE) that no loss has used"
        )
        return None
    return load_attributes(own)


def _beside(model: str, filename: str) -> Path | None:
    """A file of the model's folder; None where it has none, or where the model was named by a file of its own."""
    path = resolve(model, filename)
    return path if path.name == filename and path.is_file() else None


def _check_apart(choices: Choices, network: AttributeNetwork | None) -> None:
    if network is None or choices.perceptual_weights is None or not choices.perceptual.startswith("attribute"):
        return
    if read_header(choices.perceptual_weights).digest == network.digest:
        raise ConfigError(
            "the methods' perceptual term would use the very attribute network that judges them. Name networks of two "
            "trainings: --perceptual-weights and --attributes"
        )


def _lpips(choices: Choices, notes: list[str]) -> Any:
    try:
        return load_lpips(choices.lpips, choices.lpips_weights)
    except (BackendUnavailable, ModelFileError) as error:
        if choices.lpips_weights is not None:
            raise
        notes.append(f"LPIPS ({choices.lpips}) is not computed: {error}")
        return None


def _edited(choices: Choices, directions: Directions | None) -> tuple[str, ...]:
    if directions is None:
        if choices.edited:
            raise InvalidInput("attributes were named to be edited, and the model has no directions")
        return ()
    if choices.edited is None:
        return tuple(name for name in EDITED if name in directions.names)
    for name in choices.edited:
        directions.info(name)  # raises for one that is not there
    return tuple(dict.fromkeys(choices.edited))
