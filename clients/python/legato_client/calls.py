"""The unary calls, each as data: method, request, how to read the answer. Both clients run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from legato_client import wire
from legato_client.images import Picture, packed
from legato_client.model_types import ModelInfo
from legato_client.types import (
    Direction,
    Edits,
    Inversion,
    Outputs,
    SessionState,
    SessionStats,
    Synthesis,
    Variants,
    edit_list,
)
from legato_pb import inversion_pb2 as pb

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    method: Literal[
        "Invert",
        "Synthesize",
        "ListModels",
        "ListDirections",
        "GetSession",
        "CloseSession",
        "LoadModel",
        "UnloadModel",
    ]
    request: Message
    read: Callable[[Any], T]


class InvertOptions(TypedDict, total=False):
    """Options of `invert`."""

    model: str
    """Name from `list_models`; empty: the server's default."""
    edits: Edits
    """What `edited` shows; none: no edited image."""
    variants: Variants
    """Further edited images, as in a session."""
    steps: int
    """Gradient steps after the encoder."""
    outputs: Outputs
    """Default: everything, as PNG."""


class SynthesizeOptions(TypedDict, total=False):
    """Options of `synthesize`: give `latents` float32 [L, D], or a `seed`."""

    latents: NDArray[np.float32]
    seed: int
    truncation: float
    """psi, with `seed`; 0: 0.7."""
    model: str
    edits: Edits
    outputs: Outputs
    """Default: image and latents, as PNG."""


EVERYTHING = Outputs(latents=True, format="png")


def invert(
    image: Picture,
    *,
    model: str = "",
    edits: Edits = (),
    variants: Variants = (),
    steps: int = 0,
    outputs: Outputs = EVERYTHING,
) -> Call[Inversion]:
    request = pb.InvertRequest(
        model=model,
        image=wire.image(packed(image, "auto")),
        edits=wire.edits(edit_list(edits)),
        variants=wire.variants(variants),
        steps=steps,
        output=wire.outputs(outputs),
    )
    return Call("Invert", request, wire.read_inversion)


def synthesize(
    *,
    latents: NDArray[np.float32] | None = None,
    seed: int = 0,
    truncation: float = 0.0,
    model: str = "",
    edits: Edits = (),
    outputs: Outputs = EVERYTHING,
) -> Call[Synthesis]:
    request = pb.SynthesizeRequest(
        model=model, truncation=truncation, edits=wire.edits(edit_list(edits)), output=wire.outputs(outputs)
    )
    if latents is None:
        request.seed = seed
    else:
        request.latents.CopyFrom(wire.latents(latents))
    return Call("Synthesize", request, wire.read_synthesis)


def list_models() -> Call[list[ModelInfo]]:
    return Call("ListModels", pb.ListModelsRequest(), lambda found: [wire.read_model(m) for m in found.models])


def list_directions(model: str) -> Call[list[Direction]]:
    request = pb.ListDirectionsRequest(model=model)
    return Call("ListDirections", request, lambda found: [wire.read_direction(d) for d in found.directions])


def get_session(token: str) -> Call[SessionState]:
    return Call("GetSession", pb.GetSessionRequest(resume_token=token), wire.read_session)


def close_session(token: str) -> Call[SessionStats]:
    request = pb.CloseSessionRequest(resume_token=token)
    return Call("CloseSession", request, lambda closed: wire.read_stats(closed.stats))
