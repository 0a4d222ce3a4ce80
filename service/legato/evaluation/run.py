"""Methods on the clips of a protocol: inverted, edited, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legato.editing.directions import Directions
from legato.errors import InvalidInput
from legato.evaluation.cost import PeakMemory
from legato.evaluation.frechet import feature_distance
from legato.evaluation.known import Protocol
from legato.evaluation.measure import Judges, Seen, edit, mean_of_edits, measure
from legato.evaluation.results import Pictures, Record, Results
from legato.inversion.method import Method
from legato.inversion.methods import FRAMES_PER_BATCH, Networks, invert_clips, steps_in_all
from legato.synthetic.dataset import to_uint8

SHOWN = 6  # clips in the pictures


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """All that methods are compared on."""

    networks: Networks
    directions: Directions | None
    judges: Judges
    protocol: Protocol
    edited: tuple[str, ...]  # attributes

    @property
    def lengths(self) -> list[int]:
        return [len(clip.frames) for clip in self.protocol.clips]


def run_method(
    setup: Setup, method: Method, progress: Callable[[int, int], object] = lambda done, total: None
) -> tuple[Record, Pictures]:
    """Inverts every clip, edits the codes, and measures both. Raises InvalidInput where the method cannot invert them.

    Clips go in groups of at most 32 frames (or of one clip): memory is that of a group, over its frames.
    """
    generator = setup.networks.generator
    device = generator.w_avg.device
    groups = _groups(setup.lengths)
    total, done = sum(steps_in_all([setup.lengths[i] for i in group], method) for group in groups), 0
    seen: list[Seen] = []
    seconds, passes, memory = 0.0, 0, 0.0

    def tell(step: int, of: int) -> None:
        progress(done + step, total)

    for group in groups:
        clips = [setup.protocol.clips[i] for i in group]
        with PeakMemory(device) as peak:
            found = invert_clips(
                setup.networks,
                [clip.frames.to(device) for clip in clips],
                method,
                on_step=tell,
            )
        done += steps_in_all([len(clip.frames) for clip in clips], method)
        seconds, passes = seconds + found.seconds, passes + found.passes
        memory = max(memory, peak.mib / sum(len(clip.frames) for clip in clips))
        seen += [Seen.of(clip, inverted, generator) for clip, inverted in zip(clips, found.clips, strict=True)]
    frames = sum(len(each.images) for each in seen)
    clips_, edits, pictures = _measured(setup, seen)
    record: Record = {
        "method": method.label,
        "name": method.name,
        "options": asdict(method.options) if method.options else {},
        "frames": frames,
        "passes_per_frame": passes / frames,
        "seconds_per_frame": seconds / frames,
        "peak_memory_mib_per_frame": memory,
        "frechet_distance": _frechet(setup.judges, seen),
        "clips": clips_,
        "edits": edits,
    }
    return record, pictures


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    for index, length in enumerate(lengths):
        if groups and sum(lengths[i] for i in groups[-1]) + length <= FRAMES_PER_BATCH:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _measured(
    setup: Setup, seen: Sequence[Seen]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, dict[str, float]]], Pictures]:
    """(figures by clip, figures of edits by attribute and clip, pictures)."""
    clips = {each.clip.name: measure(each, setup.judges) for each in seen}
    edits: dict[str, dict[str, dict[str, float]]] = {}
    pictures = {"reconstruction": _sheet([_shown(each, each.images) for each in seen[:SHOWN]])}
    for attribute in setup.edited if setup.directions is not None else ():
        assert setup.directions is not None
        direction = setup.directions.vector(attribute)
        found = [edit(each, attribute, direction, setup.networks.generator, setup.judges.attributes) for each in seen]
        edits[attribute] = {
            each.clip.name: dict(edited.figures) for each, edited in zip(seen, found, strict=True) if edited is not None
        }
        shown = zip(seen[:SHOWN], found[:SHOWN], strict=True)
        pictures[attribute] = _sheet([_shown(each, e.images if e else None) for each, e in shown])
    for name, figures in clips.items():
        figures |= mean_of_edits([by_clip[name] for by_clip in edits.values() if name in by_clip])
    return clips, edits, pictures


def _frechet(judges: Judges, seen: Sequence[Seen]) -> float | None:
    if judges.attributes is None or sum(len(each.images) for each in seen) < 2:
        return None
    rebuilt, source = torch.cat([each.images for each in seen]), torch.cat([each.target for each in seen])
    return feature_distance(judges.attributes.features, rebuilt, source)


def middle(length: int) -> int:
    """The frame of a clip that pictures show."""
    return length // 2


def _shown(seen: Seen, images: Tensor | None) -> Tensor:
    """The middle frame [3, R, R] of a clip; black where it has no code, or no edit."""
    frame = middle(len(seen.clip.frames))
    if images is None or frame not in seen.inverted.frames:
        return torch.full_like(seen.clip.frames[0], -1.0)
    return images[seen.inverted.frames.index(frame)]


def _sheet(images: Sequence[Tensor]) -> NDArray[np.uint8]:
    return to_uint8(torch.stack(list(images))).numpy()


def run_all(
    setup: Setup,
    methods: Sequence[Method],
    results: Results,
    stamp: Mapping[str, Any],
    progress: Callable[[Method, int, int], object] = lambda method, done, total: None,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, str]:
    """Runs what is not finished; returns why a method could not be run, by label. The others go on."""
    failed: dict[str, str] = {}
    for method in methods:
        if results.find(method) is not None:
            say(f"{method.label}: finished before, kept")
            continue
        try:
            record, pictures = run_method(setup, method, partial(progress, method))
        except InvalidInput as error:
            failed[method.label] = str(error)
            say(f"{method.label}: {error}")
            continue
        results.keep({**record, "stamp": dict(stamp)}, pictures)
    return failed
