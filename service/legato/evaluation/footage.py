"""The protocol of any footage: a folder of clips of which nothing is known but their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from legato.errors import InvalidImage, InvalidInput
from legato.evaluation.known import KnownClip, Protocol, away_by_reading
from legato.evaluation.synthetic import motion_of
from legato.models.attributes import AttributeNetwork
from legato.offline import find, read


def folder_clips(
    folder: Path,
    resolution: int,
    *,
    clips: int = 12,
    frames: int = 8,
    attributes: Sequence[str] = (),
    strength: float = 1.0,
    network: AttributeNetwork | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Protocol:
    """The first `frames` frames of the first `clips` clips: videos, and the images of every folder, as the offline
    commands find and letterbox them.

    What cannot be read is left out and told. Raises InvalidInput where there is no folder, or no clip in it that can
    be read, ConfigError for a folder without pictures and for videos without PyAV.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder; the protocol folder:DIR takes one with videos or folders of images")
    sources = find([folder])
    found: list[KnownClip] = []
    told: list[str] = []
    sha = hashlib.sha256()
    for source in sources:
        if len(found) == clips:
            told.append(f"{source.name}: {clips} clips come before it (--clips)")
            continue
        try:
            item = read(replace(source, files=source.files[:frames]), resolution, most=frames)
        except InvalidImage as error:
            told.append(str(error))
            continue
        told += [*item.skipped, *filter(None, [item.fitted])]
        sha.update(item.frames.tobytes())
        amounts = {name: away_by_reading(network, item.images, name, strength) for name in attributes}
        found.append(KnownClip(source.name, item.images, motion_of(item.images), "estimated", amounts=amounts))
        progress(len(found), min(clips, len(sources)))
    if not found:
        raise InvalidInput(f"{folder} holds no clip that can be read: {told[0]}. Give videos, or folders of images")
    settings = {"protocol": "folder", "clips": [clip.name for clip in found], "frames": frames}
    settings |= {"pixels": sha.hexdigest()[:16], "attributes": list(attributes), "strength": strength}
    about = (
        f"{len(found)} clip{'s' * (len(found) > 1)} of the folder {folder.resolve().name}, at most {frames} frames of "
        f"each, letterboxed to {resolution} pixels, no face aligned; flow is estimated (DIS), "
        "latents and true edits are not known"
    )
    return Protocol(f"folder {folder.resolve().name}", about, settings, tuple(found), tuple(told))
