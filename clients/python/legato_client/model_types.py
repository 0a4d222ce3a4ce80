"""Values about models and their versions. No protobuf in sight: `wire` and `model_calls` convert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ModelState = Literal["loading", "ready", "draining", "failed", "unloaded", "unspecified"]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model that a result comes from; `version` is "" for one without versions, digests are sha256 of weights."""

    name: str = ""
    version: str = ""
    digest: str = ""
    encoder_digest: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the server has loaded. `digest` is the sha256 of its weights; latents are [layers, dim]."""

    name: str
    digest: str
    resolution: int
    layers: int
    dim: int
    description: str
    version: str = ""  # "": of a model without versions
    encoder_digest: str = ""

    @property
    def label(self) -> str:
        """ "name" or "name@version", which opens this version."""
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model, and what the server made of it.

    A `current` one is what its bare name opens, the `default` what an empty name opens; one that drains serves the
    `sessions` that it has. `reason` says why it failed. `info` is None until it is loaded.
    """

    name: str
    version: str
    state: ModelState
    reason: str
    sessions: int
    current: bool
    default: bool
    info: ModelInfo | None

    @property
    def label(self) -> str:
        """ "name" or "name@version"."""
        return f"{self.name}@{self.version}" if self.version else self.name
