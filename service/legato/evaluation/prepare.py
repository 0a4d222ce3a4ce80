"""What an evaluation works with: model, directions and judging networks, and what is not there and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from legato.editing.directions import Directions, load_directions
from legato.errors import BackendUnavailable, ConfigError, InvalidInput, ModelFileError
from legato.evaluation.footage import folder_clips
from legato.evaluation.known import EDITED, Protocol
from legato.evaluation.measure import Judges
from legato.evaluation.rendered import rendered_clips
from legato.evaluation.synthetic import synthetic_clips
from legato.inversion.methods import Networks
from legato.models import Generator, load_encoder, load_generator
from legato.models.attributes import SIZE, AttributeNetwork, load_attributes
from legato.models.files import resolve
from legato.models.perceptual import load_lpips, load_perceptual
from legato.synthetic.renderer import Renderer

Progress = Callable[[int, int], object]
Precision = Literal["auto", "float32", "bfloat16"]
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
    perceptual: str | None = None  # features of the methods' objective; None: the Laplacian pyramid
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
    device = _device(choices.device)
    generator = load_generator(choices.model).to(device)
    notes = [NIQE]
    encoder = _optional(notes, "methods that start from an encoder cannot run", load_encoder, choices.model)
    precision = _precision(choices.precision, device)
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    generator.autocast_dtype = dtype
    if encoder is not None:
        encoder = encoder.to(device)
        encoder.autocast_dtype = dtype
    directions = _optional(
        notes, "no edit is measured", lambda: load_directions(choices.model, generator_digest=generator.digest)
    )
    network = _network(choices, generator, notes)
    features = None
    if choices.perceptual is not None:
        features = load_perceptual(choices.perceptual, choices.perceptual_weights)
        _check_apart(features, network)
        if isinstance(features, torch.nn.Module):
            features.to(device)
    judges = Judges(network, _lpips(choices, notes), choices.lpips)
    settings = {
        "model": choices.model,
        "generator": generator.digest,
        "encoder": encoder.digest if encoder else None,
        "directions_of": directions.generator_digest if directions else None,
        "attribute_network": network.digest if network else None,
        "lpips": choices.lpips if judges.lpips else None,
        "perceptual": choices.perceptual,
        "precision": precision,
        "device": device.type,
    }
    networks = Networks(generator, encoder, features.features if features else None)
    return Prepared(networks, directions, judges, _edited(choices, directions), settings, tuple(notes))


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


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name}: {str(error).partition(chr(10))[0]}. Give cpu, or a GPU that is there"
        ) from error
    return device


def _precision(wanted: Precision, device: torch.device) -> str:
    """As the server chooses: bfloat16 where the device multiplies it natively."""
    native = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return ("bfloat16" if native else "float32") if wanted == "auto" else wanted


def _optional(notes: list[str], loss: str, load: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return load(*arguments)
    except ModelFileError as error:
        notes.append(f"{loss}: {error}")
        return None


def _network(choices: Choices, generator: Generator, notes: list[str]) -> AttributeNetwork | None:
    """The judging network: the file that was named, or the model's own."""
    if generator.config.resolution % SIZE:
        notes.append(f"no attribute network reads {generator.config.resolution} pixels: a multiple of {SIZE} is wanted")
        return None
    if choices.attributes is not None:
        return load_attributes(choices.attributes)
    if not resolve(choices.model, "attributes.safetensors").is_file():
        notes.append(
            "the model has no attributes.safetensors, so identity, trunk distance, Frechet distance, response and "
            "leakage are not computed: name an attribute network (--attributes FILE) that no loss has used"
        )
        return None
    return load_attributes(resolve(choices.model, "attributes.safetensors"))


def _check_apart(features: Any, network: AttributeNetwork | None) -> None:
    own = getattr(getattr(features, "network", None), "digest", None)
    if network is not None and own == network.digest:
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
