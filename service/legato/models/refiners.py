"""What a model may have beside its generator and encoder, to refine the encoder's codes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from legato.errors import ModelFileError
from legato.models.curvature import Curvature
from legato.models.encoder import ImageEncoder
from legato.models.files import load_curvature, load_residual_encoder, read_header, resolve
from legato.models.generator import Generator
from legato.models.residual_encoder import ResidualEncoder

RESIDUAL, CURVATURE = "residual_encoder.safetensors", "curvature.safetensors"


@dataclass(frozen=True, slots=True)
class Refiners:
    """None of a kind that the model does not have."""

    residual: ResidualEncoder | None = None
    curvature: Curvature | None = None

    @property
    def told(self) -> Mapping[str, str]:
        """In words, for a log line: the digest, or that there is none."""
        parts = {"residual_encoder": self.residual, "curvature": self.curvature}
        return {name: part.digest[:12] if part is not None else "none" for name, part in parts.items()}


def load_refiners(model: str | Path, generator: Generator, encoder: ImageEncoder) -> Refiners:
    """Those in the model's folder, or in that of its packaged name.

    Raises ModelFileError for one that is damaged, or was made for another generator or encoder.
    """
    residual, curvature = (resolve(model, name) for name in (RESIDUAL, CURVATURE))
    found = Refiners(
        load_residual_encoder(residual) if _beside(model, residual) else None,
        load_curvature(curvature) if _beside(model, curvature) else None,
    )
    owners = {"generator": generator.digest, "encoder": encoder.digest}
    for path, part in ((residual, found.residual), (curvature, found.curvature)):
        recipe = read_header(path).recipe if part is not None else {}
        for kind, digest in owners.items():
            if recipe.get(kind, digest) != digest:
                raise ModelFileError(
                    f"{path} was made for the {kind} {str(recipe[kind])[:12]}; this model's is {digest[:12]}. Make it "
                    "again for this model, or remove it: a model is served without one, too"
                )
    return found


def _beside(model: str | Path, path: Path) -> bool:
    return path != Path(model) and path.is_file()
