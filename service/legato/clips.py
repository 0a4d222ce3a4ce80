"""A whole clip inverted on the engine's thread, in parts between which live frames run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from legato.answering import to_pixels
from legato.background import Pause
from legato.devices import Device, in_words, watched
from legato.editing.directions import Directions
from legato.errors import InvalidInput, OutOfMemory
from legato.inversion.consecutive import ConsecutiveOptions
from legato.inversion.method import Method, parse_method
from legato.inversion.methods import Networks, invert_clips
from legato.inversion.multi_code import MultiCodeOptions
from legato.inversion.pauses import pausing
from legato.losses import psnr
from legato.models.encoder import ImageEncoder
from legato.models.generator import Generator
from legato.turns import Turns
from legato.types import ClipAnswer, ClipJob, ClipMethod

MAX_CODES = 32  # of multi_code; the paper's gain ends at about 20
MAX_FRAMES_PER_BATCH = 64  # of several windows; a single window is as long as it is


class Clips:
    """Inverts clips with one model.

    Args:
        generator, encoder, directions: the model, weights frozen.
        rows: frames that are computed at a time; between them the others' frames run.
        runner: the device that computes them.
        turns: of all that compute on the device.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: ImageEncoder,
        directions: Directions,
        *,
        rows: int,
        runner: Device,
        turns: Turns | None = None,
    ) -> None:
        self._networks = Networks(generator, encoder)
        self._runner = runner
        self._directions = directions
        self._rows = rows
        self._turns = turns or Turns()

    def method(self, text: str) -> ClipMethod:
        """What a method's text asks for. Raises InvalidInput where it cannot be."""
        method = _parsed(text)
        return ClipMethod(
            label=method.label,
            steps=method.steps,
            compares=isinstance(method.options, ConsecutiveOptions) and method.options.ordered,
        )

    def invert(self, job: ClipJob, pause: Pause) -> ClipAnswer:
        """The answer to a clip; calls `pause` after every part, and ends in what that raises.

        Raises InvalidInput where clip and method do not fit together or its numbers do not stay finite, OutOfMemory
        where there is no memory for it, DeviceLost.
        """
        try:
            with watched(self._runner):
                return self._invert(job, pause)
        except torch.OutOfMemoryError as error:
            why = f"the device has not the memory for this clip ({in_words(error)})"
        self._runner.relieve()
        raise OutOfMemory(f"{why}; send fewer frames, or try again later")

    def _invert(self, job: ClipJob, pause: Pause) -> ClipAnswer:
        generator = self._networks.generator
        device = generator.w_avg.device
        frames = np.stack([frame.pixels for frame in job.frames])
        images = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)

        def between() -> None:
            with self._turns.aside():
                pause()

        with self._turns.turn(urgent=False), pausing(between, self._rows):
            between()
            outcome = invert_clips(self._networks, [images], _parsed(job.method), on_step=job.on_step)
            (clip,) = outcome.clips
            rebuilt = clip.images(generator)
            moved = self._directions.restyled(generator, job.edits)
            edited = clip.images(moved, self._move(job, clip.latents)) if job.edits else None
        for found in (clip.latents, rebuilt, edited):
            if found is not None and not found.isfinite().all():
                raise InvalidInput(
                    f"what {job.method!r} and the edits gave is not finite; lower the method's rate (lr) or the "
                    "strengths",
                    reason="NOT_FINITE",
                    field="options.edits" if found is edited else "options.method",
                )
        return ClipAnswer(
            frames=clip.frames,
            reconstruction=to_pixels(rebuilt),
            edited=to_pixels(edited) if edited is not None else None,
            latents=clip.latents.cpu().numpy(),
            psnr_db=tuple(psnr(rebuilt, images[list(clip.frames)]).tolist()),
            seconds=outcome.seconds,
            passes_per_frame=outcome.passes_per_frame,
        )

    def _move(self, job: ClipJob, latents: Tensor) -> Tensor:
        """What the job's edits in W+ add to every code: [L, D]."""
        return self._directions.move(torch.zeros_like(latents[:1]), [job.edits])[0]


def _parsed(text: str) -> Method:
    try:
        method = parse_method(text)
    except InvalidInput as error:
        error.field = "options.method"
        raise
    options = method.options
    if isinstance(options, MultiCodeOptions) and options.codes > MAX_CODES:
        raise InvalidInput(
            f"multi_code has at most {MAX_CODES} codes on this server; got {options.codes}",
            reason="METHOD_OPTIONS",
            field="options.method",
        )
    if isinstance(options, ConsecutiveOptions):
        fewer = min(options.frames_per_batch, MAX_FRAMES_PER_BATCH)
        return replace(method, options=replace(options, frames_per_batch=fewer))
    return method
