"""The protocol of rendered clips: held-out heads whose flow and whose edits are known exactly.

Renders are kept in a folder under a name made of all that they depend on, a sample of what the renderer draws included,
so that a second evaluation finds them, and two that run at once share them.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legato.errors import InvalidInput
from legato.evaluation.editability import TrueEdit, true_edit
from legato.evaluation.known import KnownClip, Protocol, away
from legato.evaluation.metrics import Motion
from legato.offline import write_npz
from legato.synthetic.clips import clip_flow, clip_z, render_clip
from legato.synthetic.dataset import from_uint8, to_uint8
from legato.synthetic.factors import ATTRIBUTES, attributes_of, sample_z
from legato.synthetic.renderer import Renderer

Arrays = dict[str, NDArray[Any]]
Progress = Callable[[int, int], object]  # pictures done, of so many


def rendered_clips(
    renderer: Renderer,
    folder: Path,
    *,
    clips: int = 12,
    frames: int = 8,
    fps: float = 12.5,
    attributes: Sequence[str] = (),
    strength: float = 1.0,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Protocol:
    """Clips of the split "eval", one a head, with their exact flow and the true edit of each attribute.

    `strength` is in standard deviations of the attribute over the population; its sign leads each head away from the
    end that it is at, so that it can move. `seed` chooses other heads and other motion. Raises InvalidInput for an
    attribute that the renderer has not, ConfigError where the folder of renders cannot be written.
    """
    if unknown := [name for name in attributes if name not in ATTRIBUTES]:
        raise InvalidInput(f"renders have no attribute {unknown[0]!r}; there are {', '.join(ATTRIBUTES)}")
    store = _Store(folder / "rendered", renderer)
    total, done = clips * frames * (2 + len(attributes)), 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    found = []
    for number in range(clips):
        identity = seed * 1000 + number
        key = {"identity": identity, "motion": seed, "frames": frames, "fps": fps}
        z = clip_z(identity, seed, frames, "eval", fps=fps)
        images = _images(store, key, renderer, told)
        motion = _motion(store, key, z, renderer.resolution, told)
        truths = {}
        for name in attributes:
            amount = away(float(_standardized(z, name).mean()), strength)
            truths[name] = _truth(store, {**key, "attribute": name, "amount": amount}, renderer, z)
            told(frames)
        name = f"head {identity}"
        found.append(KnownClip(name, images, motion, "exact", truths=truths))
    settings = {"protocol": "rendered", "clips": clips, "frames": frames, "fps": fps, "seed": seed}
    settings |= {"attributes": list(attributes), "strength": strength, "renderer": store.version}
    about = (
        f"{clips} rendered clips of {frames} frames at {fps:g} frames a second, one a head, split `eval` (no training "
        f"saw it), heads {seed * 1000} to {seed * 1000 + clips - 1}, motion {seed}; flow and true edits are exact"
    )
    return Protocol("rendered", about, settings, tuple(found))


def rendered_frames(
    renderer: Renderer,
    folder: Path,
    *,
    clips: int,
    frames: int,
    fps: float = 25.0,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> list[Tensor]:
    """The pictures alone of such clips, each [T, 3, R, R] in [-1, 1], from the same folder of renders.

    Raises ConfigError where that cannot be written.
    """
    store, found = _Store(folder / "rendered", renderer), []
    for number in range(clips):
        key = {"identity": seed * 1000 + number, "motion": seed, "frames": frames, "fps": fps}
        found.append(_images(store, key, renderer, lambda count: None))
        progress(number + 1, clips)
    return found


def _images(store: _Store, key: Mapping[str, Any], renderer: Renderer, told: Callable[[int], None]) -> Tensor:
    def make() -> Arrays:
        clip = render_clip(renderer, key["identity"], key["motion"], key["frames"], "eval", fps=key["fps"])
        return {"images": clip.images}

    images = store.get({**key, "what": "images"}, make)["images"]
    told(key["frames"])
    return from_uint8(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())


def _motion(
    store: _Store, key: Mapping[str, Any], z: Tensor, resolution: int, told: Callable[[int], None]
) -> Motion | None:
    def make() -> Arrays:
        flow, visible = clip_flow(z.to(store.device), resolution)
        return {"flow": flow.cpu().numpy(), "visible": visible.cpu().numpy()}

    found = store.get({**key, "what": "flow"}, make) if len(z) > 1 else None
    told(len(z))
    if found is None:
        return None
    return Motion(torch.from_numpy(found["flow"]), torch.from_numpy(found["visible"]).float())


def _truth(store: _Store, key: Mapping[str, Any], renderer: Renderer, z: Tensor) -> TrueEdit:
    def make() -> Arrays:
        found = true_edit(renderer, z, key["attribute"], key["amount"])
        return {"images": to_uint8(found.images).cpu().numpy(), "change": found.change.numpy()}

    arrays = store.get({**key, "what": "edit"}, make)
    return TrueEdit(from_uint8(torch.from_numpy(arrays["images"])), torch.from_numpy(arrays["change"]))


def _standardized(z: Tensor, attribute: str) -> Tensor:
    """[T] in standard deviations from the mean over the population."""
    mean, deviation = _population()
    column = ATTRIBUTES.index(attribute)
    return (attributes_of(z)[:, column] - mean[column]) / deviation[column]


@cache
def _population() -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [A] of the attributes."""
    values = attributes_of(sample_z(range(1024), "train"))
    return values.mean(0), values.std(0)


class _Store:
    """Arrays in a folder, made once."""

    def __init__(self, folder: Path, renderer: Renderer) -> None:
        self.folder = folder
        self.device = renderer.device
        self.version = _drawing_digest()
        self._about = {"size": renderer.resolution, "rays": renderer.supersample, "drawing": self.version}

    def get(self, key: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
        """The arrays of a key; a file that is damaged is made again. Raises ConfigError on a full disk."""
        name = hashlib.sha256(json.dumps({**self._about, **key}, sort_keys=True).encode()).hexdigest()[:24]
        path = self.folder / f"{name}.npz"
        try:
            with np.load(path) as file:
                return {part: file[part] for part in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError):
            pass
        arrays = make()
        write_npz(path, arrays)
        return arrays


@cache
def _drawing_digest() -> str:
    """Of small pictures, motion and flow of a few heads: changes with what the renderer draws, not with its source."""
    z = torch.cat([clip_z(identity, 0, 2, "eval") for identity in range(12)])
    flow, visible = clip_flow(z[:2], 32)
    parts = (z, to_uint8(Renderer(32, 1)(z).image), (100 * flow).round().short(), visible)
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.numpy().tobytes())
    return sha.hexdigest()[:16]
