"""What a device does for the first time it does before a client waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from legato.errors import LegatoError
from legato.pipeline import Pipeline
from legato.types import Edit, Frame, FrameJob


def warm_up(pipeline: Pipeline, sizes: Sequence[int], beat: Callable[[], None]) -> None:
    """Runs batches of every size plain, with an edit, and with a step, on nobody's frames; `beat` after each size."""
    r, known = pipeline.resolution, pipeline.directions.names
    frame = Frame(np.random.default_rng(0).integers(0, 256, (r, r, 3), np.uint8))
    edits = (Edit(known[0], 0.0),) if known else ()
    for size in sizes:
        for asked, steps in (((), 0), (edits, 0), (edits, min(1, pipeline.max_steps))):
            for answer in pipeline.run([FrameJob(-1, 0, frame, asked, max_steps=steps)] * size):
                if isinstance(answer, LegatoError):
                    raise answer
        beat()
