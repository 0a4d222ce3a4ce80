"""Codes on disk: latents.npz, what an inversion found of one item, to be shown, edited and gone on with.

    latents [T', L, D] float32, frames [T'] int64    codes, and which of the item's T frames they are of
    labels [T], kind, rate, tick, pts [T]            how the item came in: outputs look the same
    model_digest, method, seconds, passes_per_frame  of which generator, and what it took
    loss.TERM [steps]                                mean over the frames of each term, unweighted, before each step
    codes, importances, tail, resolution             of multi_code: its composition, which is what makes the image
    noise.N                                          noise maps, where they were free
    identity, version                                digest of images, model and options; of this format

Only `latents` and `model_digest` are needed to be read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legato.errors import ModelFileError
from legato.inversion.methods import InvertedClip
from legato.inversion.multi_code import Composition
from legato.inversion.solve import Inversion
from legato.offline.reading import Timing
from legato.offline.sources import Kind
from legato.offline.writing import write_npz

VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """What was found of an item of T frames."""

    name: str
    kind: Kind
    labels: tuple[str, ...]  # [T]
    timing: Timing | None
    clip: InvertedClip
    model_digest: str
    method: str = ""
    identity: str = ""
    seconds: float = 0.0
    passes_per_frame: float = 0.0
    history: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # term -> [steps]

    @property
    def held(self) -> list[int]:
        """For each of the T frames the row of the nearest frame that has a code."""
        frames = np.asarray(self.clip.frames)
        return [int(np.abs(frames - frame).argmin()) for frame in range(len(self.labels))]


def save_codes(path: Path, codes: Codes) -> None:
    """Writes the codes. Raises ConfigError where that cannot be done."""
    clip, timing = codes.clip, codes.timing
    arrays: dict[str, Any] = {
        "version": VERSION,
        "latents": _array(clip.latents),
        "frames": np.asarray(clip.frames, np.int64),
        "labels": np.asarray(codes.labels),
        "kind": codes.kind,
        "model_digest": codes.model_digest,
        "method": codes.method,
        "identity": codes.identity,
        "seconds": codes.seconds,
        "passes_per_frame": codes.passes_per_frame,
    }
    if timing is not None:
        arrays |= {"rate": str(timing.rate), "tick": str(timing.tick), "pts": np.asarray(timing.pts, np.int64)}
    if (several := clip.composition) is not None:
        arrays |= {name: _array(getattr(several, name)) for name in ("codes", "importances", "tail")}
        arrays["resolution"] = several.resolution
    arrays |= {f"noise.{number}": _array(noise) for number, noise in enumerate(clip.noise)}
    arrays |= {f"loss.{term}": np.asarray(values, np.float32) for term, values in codes.history.items()}
    write_npz(path, arrays)


def load_codes(path: Path, *, digest: str | None = None, device: torch.device | str = "cpu") -> Codes:
    """The codes in a file; its name is that of the file, or of the folder that latents.npz lies in.

    Raises ModelFileError for a file that holds none, or those of a generator with another digest than the one given.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        codes = _codes(path, arrays, device)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist; `legato invert` writes latents.npz for each input") from None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ModelFileError(
            f"{path} holds no codes that can be read ({type(error).__name__}: {error}); "
            "`legato invert` writes latents.npz for each input"
        ) from error
    if digest is not None and codes.model_digest != digest:
        raise ModelFileError(
            f"{path} holds codes of the generator {codes.model_digest[:16]}...; the one in use is {digest[:16]}... "
            "Name their model with --model, or invert the pictures again"
        )
    return codes


def _codes(path: Path, arrays: dict[str, NDArray[Any]], device: torch.device | str) -> Codes:
    version = int(arrays.get("version", np.asarray(VERSION)))
    if version != VERSION:
        raise ValueError(f"version {version}; this legato reads {VERSION}")
    latents = arrays["latents"]
    if latents.ndim != 3 or 0 in latents.shape or not np.isfinite(latents).all():
        raise ValueError(f"latents are [T, L, D] of finite numbers; got {list(latents.shape)}")
    tensors = {
        name: torch.from_numpy(value.astype(np.float32)).to(device)
        for name, value in arrays.items()
        if name in ("latents", "codes", "importances", "tail") or name.startswith("noise.")
    }
    frames = tuple(int(frame) for frame in arrays.get("frames", np.arange(len(latents))))
    labels = tuple(str(label) for label in arrays.get("labels", [f"{frame:06d}" for frame in frames]))
    if len(frames) != len(latents) or list(frames) != sorted(set(frames)) or not set(frames) <= set(range(len(labels))):
        raise ValueError(f"frames are numbers of {len(labels)} frames, one a code; got {list(frames)[:8]}")
    kind = str(arrays.get("kind", "image" if len(labels) == 1 else "sequence"))
    if kind not in ("image", "sequence", "clip"):
        raise ValueError(f"kind {kind!r}")
    composition = None
    if "codes" in tensors:
        parts = (tensors["codes"], tensors["importances"], tensors["tail"])
        if any(len(part) != len(latents) for part in parts):
            raise ValueError("codes, importances and tail have one row a frame")
        composition = Composition(*parts, int(arrays["resolution"]))
    noise = tuple(tensors[f"noise.{n}"] for n in range(sum(name.startswith("noise.") for name in tensors)))
    return Codes(
        name=path.parent.resolve().name if path.name == "latents.npz" else path.stem,
        kind=kind,  # type: ignore[arg-type]  # checked above
        labels=labels,
        timing=_timing(arrays, len(labels)) if kind == "clip" else None,
        clip=InvertedClip(tensors["latents"], frames, composition, noise),
        model_digest=str(arrays["model_digest"]),
        method=str(arrays.get("method", "")),
        identity=str(arrays.get("identity", "")),
        seconds=float(arrays.get("seconds", 0.0)),
        passes_per_frame=float(arrays.get("passes_per_frame", 0.0)),
        history={name.removeprefix("loss."): array for name, array in arrays.items() if name.startswith("loss.")},
    )


def _timing(arrays: Mapping[str, NDArray[Any]], count: int) -> Timing:
    pts = tuple(int(time) for time in arrays["pts"])
    if len(pts) != count:
        raise ValueError(f"{count} frames have as many times; got {len(pts)}")
    return Timing(Fraction(str(arrays["rate"])), Fraction(str(arrays["tick"])), pts)


def history(solves: Sequence[Inversion]) -> dict[str, NDArray[np.float32]]:
    """Of each term the mean over the images of all solves, before each step: [steps]. A solve that stopped early keeps
    its last value."""
    longest = max((found.steps for found in solves), default=0)
    if not longest:
        return {}
    terms: dict[str, list[NDArray[np.float32]]] = {}
    for found in solves:
        for term, values in {**found.losses, "total": found.totals}.items():
            rows = _array(values)
            terms.setdefault(term, []).append(np.pad(rows, ((0, longest - len(rows)), (0, 0)), mode="edge"))
    return {term: np.concatenate(rows, 1).mean(1) for term, rows in terms.items()}


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()
