"""What `legato restore` can do, from its options to a degradation and the pictures that it is seen through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from legato.errors import ConfigError, InvalidImage
from legato.images import fit
from legato.offline.reading import read_image
from legato.offline.sources import Source
from legato.restoration import Colorize, Degradation, Denoise, Inpaint, SuperResolve, lost_pixels, noise_level
from legato.restoration.super_resolve import FACTORS

TASKS = ("colorize", "super-resolve", "inpaint", "denoise")
_LEVEL = 2.0 / 255  # of 8 bits, in [-1, 1]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One of TASKS with what belongs to it."""

    name: str
    factor: int = 0  # of super-resolve
    mask: Tensor | None = None  # [1, 1, R, R]: 1 where pixels are known; of inpaint, and of denoise with lost pixels
    noise: float | None = None  # of denoise, in 8-bit levels; None: estimated from the pictures
    degrade: bool = False  # the pictures are clean, and degraded first
    seed: int = 0  # of the noise that is put on

    def side(self, resolution: int) -> int:
        """Pixels that pictures are read with."""
        return resolution // self.factor if self.factor and not self.degrade else resolution

    def seen(self, images: Tensor) -> tuple[Degradation, Tensor]:
        """(what happened to them, the degraded images [T, 3, r, r]) of images as they were read."""
        degradation = self._degradation(images)
        if not self.degrade:
            return degradation, images
        degraded = degradation.apply(images)
        if isinstance(degradation, Denoise) and degradation.noise:
            noise = torch.randn(degraded.shape, generator=torch.Generator().manual_seed(self.seed))
            degraded = (degraded + degradation.noise * noise.to(degraded.device)).clamp(-1.0, 1.0)
        return degradation, degraded

    def _degradation(self, images: Tensor) -> Degradation:
        if self.name == "colorize":
            return Colorize()
        if self.name == "super-resolve":
            return SuperResolve(self.factor)
        mask = None if self.mask is None else self.mask.to(images.device)
        if self.name == "inpaint":
            assert mask is not None
            return Inpaint(mask)
        if mask is not None:
            return Denoise(mask)
        if self.noise is not None:
            return Denoise(noise=self.noise * _LEVEL)
        # Whole levels: pictures of one camera then share a calibration.
        return Denoise(noise=max(1, round(float(noise_level(images).median()) / _LEVEL)) * _LEVEL)


def task_of(
    name: str,
    sources: Sequence[Source],
    resolution: int,
    *,
    factor: int | None = None,
    mask: Path | None = None,
    noise: float | None = None,
    lost: float | None = None,
    degrade: bool = False,
    seed: int = 0,
) -> Task:
    """A task as its options ask for it.

    Raises ConfigError for options that do not belong to it or are missing, InvalidImage for a mask that cannot be read.
    """
    allowed = {"colorize": (), "super-resolve": ("factor",), "inpaint": ("mask",), "denoise": ("mask", "noise", "lost")}
    given = {"factor": factor, "mask": mask, "noise": noise, "lost": lost}
    for option, value in given.items():
        if value is not None and option not in allowed[name]:
            owners = [task for task, options in allowed.items() if option in options]
            raise ConfigError(f"--{option} belongs to {' and '.join(owners)}; {name} has none")
    if sum(value is not None for value in (mask, noise, lost)) > 1:
        raise ConfigError("denoise takes one of --mask, --noise and --lost")
    if lost is not None and not degrade:
        raise ConfigError(
            "--lost loses pixels of clean pictures: give it with --degrade. Pixels that are lost are told by --mask"
        )
    if name == "super-resolve":
        return Task(name, factor or (4 if degrade else _factor(sources, resolution)), degrade=degrade)
    if name == "inpaint" and mask is None:
        raise ConfigError("inpaint needs --mask FILE, a picture that is white where pixels are to be filled")
    known: Tensor | None = None
    if lost is not None:
        known = lost_pixels(resolution, lost, seed)
    elif mask is not None:
        known = read_mask(mask, resolution)
    if name == "denoise" and degrade and known is None and noise is None:
        noise = 25.0  # levels, the usual one of the literature on denoising
    return Task(name, 0, known, noise, degrade, seed)


def read_mask(path: Path, resolution: int) -> Tensor:
    """What is known [1, 1, R, R] of a picture that is white where pixels are not; fitted as the pictures are.

    Raises InvalidImage where it cannot be read, or is white or black all over.
    """
    if not path.is_file():
        raise InvalidImage(f"the mask {path} is no file")
    lost = torch.from_numpy(fit(read_image(path), resolution)).float().mean(2) >= 127.5
    if bool(lost.all()) or not bool(lost.any()):
        color = "white all over: nothing is known" if bool(lost.all()) else "black all over: nothing is to be filled"
        raise InvalidImage(f"the mask {path} is {color}. White is what is to be filled, black is kept")
    return (~lost).float()[None, None]


def _factor(sources: Sequence[Source], resolution: int) -> int:
    """The factor from the first picture to the model. Raises ConfigError where there is none."""
    wanted = f"{', '.join(f'{resolution // f}x{resolution // f}' for f in FACTORS)} pixels to {resolution}x{resolution}"
    if sources[0].kind == "clip":
        raise ConfigError(f"super-resolve of a video needs --factor: from {wanted}")
    height, width = read_image(sources[0].files[0]).shape[:2]
    factor = resolution / max(height, width)
    if factor not in FACTORS:
        raise ConfigError(
            f"super-resolve goes from {wanted}; {sources[0].files[0]} is {width}x{height}. Give --factor, and pictures "
            "are reduced to fit it, or --degrade, to see what comes of clean pictures"
        )
    return int(factor)
