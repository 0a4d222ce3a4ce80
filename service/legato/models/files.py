"""Model files: safetensors with one metadata entry, "legato", that holds a JSON header.

Header: format and version of the file, kind ("generator", "encoder", ...), config (the architecture's dataclass),
digest (sha256 over the tensors as stored) and recipe (whatever the maker wrote down). One entry with sorted keys,
because the order of several entries is not fixed: the same tensors and header give the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from legato.errors import ModelFileError
from legato.models import formats
from legato.models.containers import Source
from legato.models.containers.headed import read_headed
from legato.models.curvature import Curvature, CurvatureConfig
from legato.models.discriminator import Discriminator
from legato.models.encoder import Encoder, EncoderConfig, ImageEncoder
from legato.models.encoders import StyleEncoder
from legato.models.generator import MAX_SIZE, Generator, GeneratorConfig
from legato.models.residual_encoder import ResidualEncoder

FORMAT = "legato"
VERSION = 1

Model = TypeVar("Model", Generator, Encoder, StyleEncoder, ResidualEncoder, Discriminator, Curvature)
KINDS: dict[type[torch.nn.Module], str] = {
    Generator: "generator",
    Encoder: "encoder",
    StyleEncoder: "style_encoder",
    ResidualEncoder: "residual_encoder",
    Curvature: "curvature",
    Discriminator: "discriminator",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a model file says of itself."""

    kind: str
    config: Mapping[str, Any]
    digest: str  # sha256, hex
    recipe: Mapping[str, Any]


def save_model(
    module: Generator | ImageEncoder | Discriminator | Curvature,
    path: str | Path,
    *,
    meta: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> Header:
    """Write weights, rounded to `dtype`, and architecture; `meta` (JSON values) becomes the header's recipe.

    Raises ModelFileError where a weight is not finite in `dtype`; an existing file is replaced only by a complete one.
    """
    tensors = {name: t.detach().cpu().to(dtype) for name, t in module.state_dict().items()}
    config: Any = module.config
    return write_tensors(path, tensors, kind=KINDS[type(module)], config=dataclasses.asdict(config), recipe=meta)


def load_generator(path_or_name: str | Path) -> Generator:
    """A generator from a file, a folder that holds generator.safetensors, or the name of a packaged model.

    The file is legato's own or a checkpoint of another code base (legato.models.formats), whose digest is that of the
    same weights converted in float32. Evaluation mode, float32, no gradients to weights. Raises ModelFileError.
    """
    path = resolve(path_or_name, "generator.safetensors")
    if is_own(path):
        return load_own(path_or_name, Generator, GeneratorConfig)
    generator, _ = formats.read_generator(path)
    generator.digest = digest(generator.state_dict())
    return generator


def load_discriminator(path_or_name: str | Path) -> Discriminator:
    """As load_generator, of discriminator.safetensors or of a checkpoint that holds one. Raises ModelFileError."""
    path = resolve(path_or_name, "discriminator.safetensors")
    if is_own(path):
        return load_own(path_or_name, Discriminator, GeneratorConfig)
    discriminator, _ = formats.read_discriminator(path)
    discriminator.digest = digest(discriminator.state_dict())
    return discriminator


def load_residual_encoder(path_or_name: str | Path) -> ResidualEncoder:
    """As load_encoder, of residual_encoder.safetensors. Raises ModelFileError."""
    return load_own(path_or_name, ResidualEncoder, EncoderConfig)


def load_curvature(path_or_name: str | Path) -> Curvature:
    """As load_encoder, of curvature.safetensors. Raises ModelFileError."""
    return load_own(path_or_name, Curvature, CurvatureConfig)


def resolve(path_or_name: str | Path, filename: str) -> Path:
    """The file meant by a path, by a folder that holds `filename`, or by the name of a packaged model."""
    given = Path(path_or_name)
    if given.is_dir():
        return given / filename
    if given.exists() or given.suffix or len(given.parts) != 1:
        return given
    assets = Path(str(files("legato"))) / "assets"
    if (assets / given).is_dir():
        return assets / given / filename
    known = sorted(p.name for p in assets.iterdir() if p.is_dir()) if assets.is_dir() else []
    raise ModelFileError(
        f"no model is named {str(given)!r}, and no file or folder of that name exists; packaged models: "
        f"{', '.join(known) or 'none'}. Give one of these names or the path of a {filename}"
    )


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], *, kind: str, config: Mapping[str, Any], recipe: Mapping[str, Any]
) -> Header:
    """Write tensors under a header; whole or not at all. Raises ModelFileError on a value that is not finite."""
    path = Path(path)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ModelFileError(
                f"{path}: tensor {name!r} holds values that are not finite in {tensor.dtype}; nothing was written. "
                "Store it as float32, or find where the training went wrong"
            )
    stored = {name: tensors[name].contiguous() for name in sorted(tensors)}
    header = Header(kind, dict(config), digest(stored), dict(recipe))
    fields = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(header)}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(stored, partial, metadata={FORMAT: json.dumps(fields, sort_keys=True)})
        partial.chmod(0o644)  # safetensors makes it for its owner alone
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return header


def read_header(path: str | Path) -> Header:
    """The header alone, without reading weights. Raises ModelFileError."""
    return _read(Path(path), with_tensors=False)[0]


def read_tensors(path: str | Path, *, kind: str) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors, in the dtype they are stored in, after checking kind and digest. Raises ModelFileError."""
    path = Path(path)
    header, tensors = _read(path, with_tensors=True)
    if header.kind != kind:
        raise ModelFileError(
            f"{path} holds weights of kind {header.kind!r}; {kind!r} was wanted. Give the file of the {kind}"
        )
    found = digest(tensors)
    if found != header.digest:
        raise ModelFileError(
            f"{path} is damaged: its weights have the digest {found[:16]}..., its header says {header.digest[:16]}... "
            "Fetch or save it again"
        )
    return header, tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over name, dtype, shape and bytes of every tensor, in the order of names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def is_own(path: Path) -> bool:
    """Whether legato wrote the file; also where there is none, so that its reader says so. Raises ModelFileError."""
    if not path.is_file():
        return True
    with Source(path) as source:
        start = source.read(0, min(source.size, 9))
        if not start.endswith(b"{") or len(start) < 9:
            return False
        return FORMAT in read_headed(source)[1]


def _read(path: Path, *, with_tensors: bool) -> tuple[Header, dict[str, Tensor]]:
    if not path.is_file():
        raise ModelFileError(
            f"no model file at {path}: there is {_kind(path)} of that name. "
            "Give the path of a .safetensors file that legato saved, or the name of a packaged model"
        )
    with Source(path) as source:
        stored, metadata = read_headed(source)
        text = metadata.get(FORMAT)
        tensors = {name: tensor.read() for name, tensor in stored.items()} if with_tensors and text else {}
    if text is None:
        raise ModelFileError(
            f"{path} is a safetensors file without legato's header, so its architecture is not known. "
            "Give a file that legato saved"
        )
    return parse_header(path, text), tensors


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "a device or a pipe" if path.exists() else "nothing"


def parse_header(path: Path, text: str) -> Header:
    """The header out of a file's metadata. Raises ModelFileError."""
    try:
        fields = json.loads(text)
        if fields["format"] != FORMAT or fields["version"] != VERSION:
            raise ModelFileError(
                f"{path} is of format {fields['format']!r} version {fields['version']!r}; this legato reads "
                f"{FORMAT!r} version {VERSION}. Use the legato that wrote it, or save it again"
            )
        return Header(str(fields["kind"]), dict(fields["config"]), str(fields["digest"]), dict(fields["recipe"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(
            f"{path} has a damaged header ({type(error).__name__}: {error}); kind, config, digest and recipe were "
            "wanted. Fetch or save it again"
        ) from error


def load_own(path_or_name: str | Path, model: type[Model], config: type[Any]) -> Model:
    """A network out of a file of legato's own. Raises ModelFileError."""
    kind = KINDS[model]
    path = resolve(path_or_name, f"{kind}.safetensors")
    header, tensors = read_tensors(path, kind=kind)
    described = _config(config, header, path)
    with torch.device("meta"):
        built = model(described)
    return _fill(built, header, tensors, path)


def _config(kind: type[Any], header: Header, path: Path) -> Any:
    try:
        if any(isinstance(value, int) and value > MAX_SIZE for value in header.config.values()):
            raise ValueError(f"a size is above {MAX_SIZE}")  # such a network would take too long to build
        return kind(**header.config)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: its config does not describe a {header.kind}: {error}. Save it again") from error


def _fill(module: Model, header: Header, tensors: Mapping[str, Tensor], path: Path) -> Model:
    """Put the tensors into a module that was built on the meta device: every key, every shape."""
    wanted = {name: list(t.shape) for name, t in module.state_dict().items()}
    complaints = [f"{name} is missing" for name in wanted if name not in tensors]
    complaints += [f"{name} is not known" for name in tensors if name not in wanted]
    complaints += [
        f"{name} is {list(t.shape)} where {wanted[name]} was wanted"
        for name, t in tensors.items()
        if name in wanted and list(t.shape) != wanted[name]
    ]
    if complaints:
        more = f" and {len(complaints) - 4} more" if len(complaints) > 4 else ""
        raise ModelFileError(
            f"{path} does not fit its own config: {'; '.join(complaints[:4])}{more}. Fetch or save it again"
        )
    module.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    module.digest = header.digest
    return module.requires_grad_(False).eval()
