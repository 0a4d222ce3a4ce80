"""Pictures of a report: rows of input, reconstructions and edits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from legato.evaluation.known import KnownClip
from legato.evaluation.report import in_order
from legato.evaluation.results import Record, Results
from legato.evaluation.run import SHOWN, middle
from legato.offline import labeled, write_png
from legato.synthetic.dataset import to_uint8

_FEW, _EDITS = 8, 3  # up to so many methods a sheet has the edits of so many attributes, above it of one


def comparison(path: Path, clips: Sequence[KnownClip], records: Sequence[Record], results: Results) -> None:
    """Writes the sheet: a column a clip (its middle frame), rows of input, each method's reconstruction, then for each
    edit the true one, where it is known, and each method's."""
    ordered = in_order(records)
    shown = clips[:SHOWN]
    pictures = {record["method"]: results.pictures(record) for record in ordered}
    rows = [("input", _frames([clip.frames[middle(len(clip.frames))] for clip in shown]))]
    rows += [(record["method"], pictures[record["method"]]["reconstruction"]) for record in ordered]
    attributes = list(dict.fromkeys(name for record in ordered for name in record["edits"]))
    for attribute in attributes[: _EDITS if len(ordered) <= _FEW else 1]:
        if any(attribute in clip.truths for clip in shown):
            rows.append((f"true {attribute}", _truths(shown, attribute)))
        for record in ordered:
            if attribute in pictures[record["method"]]:
                rows.append((f"{record['method']}: {attribute}", pictures[record["method"]][attribute]))
    drawn = [(label.replace(",", ", "), images.transpose(0, 2, 3, 1)) for label, images in rows]
    write_png(path, labeled(drawn, [clip.name for clip in shown]))


def _truths(clips: Sequence[KnownClip], attribute: str) -> NDArray[np.uint8]:
    nothing = torch.full_like(clips[0].frames[0], -1.0)
    truths = [(clip.truths.get(attribute), middle(len(clip.frames))) for clip in clips]
    return _frames([truth.images[frame] if truth else nothing for truth, frame in truths])


def _frames(frames: Sequence[torch.Tensor]) -> NDArray[np.uint8]:
    return to_uint8(torch.stack(list(frames))).numpy()
