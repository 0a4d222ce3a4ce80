"""Semantic diffusion from files: the crop of one picture in the context of another (Zhu et al. 2020)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from legato.errors import InvalidInput
from legato.inversion.in_domain import InDomainOptions, diffuse, square_mask
from legato.inversion.methods import InvertedClip, Progress
from legato.offline.codes import Codes, history, save_codes
from legato.offline.inverting import pixels
from legato.offline.networks import Model
from legato.offline.reading import Item, read_image
from legato.offline.sheets import labeled, spread
from legato.offline.writing import write_frames, write_png


def diffuse_item(
    item: Item,
    context: Item,
    mask: Tensor,  # [1, 1, R, R]
    model: Model,
    options: InDomainOptions,
    folder: Path,
    progress: Progress | None = None,
) -> list[str]:
    """Puts what the mask shows of every frame into the context, one picture or as many; gives the files' names.

    Raises InvalidInput where frames do not fit together, or without an encoder.
    """
    if len(context.frames) not in (1, len(item.frames)):
        raise InvalidInput(
            f"a context has one frame or as many as {item.name}, {len(item.frames)}; {context.name} has "
            f"{len(context.frames)}"
        )
    device = model.generator.w_avg.device
    target = item.images.to(device)
    found = diffuse(
        model.generator,
        model.networks.encode,
        target,
        context.images.to(device).expand_as(target).contiguous(),
        mask.to(device),
        options=options,
        features=model.networks.features,
        on_step=None if progress is None else lambda step: progress(step, options.steps),
    )
    solved = found.inversion
    codes = Codes(
        item.name,
        item.kind,
        item.labels,
        item.timing,
        InvertedClip(solved.latents, tuple(range(len(target)))),
        model.generator.digest,
        "diffuse",
        seconds=solved.seconds,
        passes_per_frame=solved.passes / len(target),
        history=history([solved]),
    )
    images = pixels(codes.clip.images(model.generator))
    save_codes(folder / "diffused.npz", codes)
    written = write_frames(folder, "diffused", images, item)
    columns = spread(len(images))
    rows = [
        ("target", item.frames[columns]),
        (f"context: {context.name}", np.broadcast_to(context.frames, item.frames.shape)[columns]),
        ("pasted", pixels(found.pasted)[columns]),
        ("diffused", images[columns]),
    ]
    write_png(folder / "diffused_sheet.png", labeled(rows, [item.labels[column] for column in columns]))
    return ["diffused.npz", written.name, "diffused_sheet.png"]


def read_mask(path: Path, resolution: int) -> Tensor:
    """[1, 1, R, R] of a picture that is white where the target is wanted. Raises InvalidImage, InvalidInput."""
    image = read_image(path)
    if image.shape[0] != image.shape[1]:
        raise InvalidInput(f"the mask {path} is square, as the model's pictures; got {image.shape[1]}x{image.shape[0]}")
    rows = np.arange(resolution) * image.shape[0] // resolution  # the nearest: a mask has no gray
    mask = torch.from_numpy((image.max(2) > 127)[rows][:, rows])[None, None].float()
    if not bool(mask.any()):
        raise InvalidInput(f"the mask {path} is black: nothing is wanted of the picture; make it white where it is")
    return mask


def crop_mask(resolution: int, x: int, y: int, side: int) -> Tensor:
    """[1, 1, R, R] of a square of `side` pixels around (x, y). Raises InvalidInput for one that leaves the image."""
    return square_mask(resolution, side, (x, y))
