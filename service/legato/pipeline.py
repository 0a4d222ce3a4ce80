"""The path of a batch of frames through the model: encode -> warp -> refine -> edit -> synthesize.

The edit comes before the synthesis so that reconstructions and edited images are one synthesis batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from legato.calls import SynthesisCall
from legato.editing.directions import Directions
from legato.errors import InvalidInput, LegatoError
from legato.inversion.streaming import Motion, Tracker, TrackerOptions, TrackerState
from legato.losses import l1, psnr
from legato.models.encoder import Encoder
from legato.models.flow import MAX_SIDE, DisFlow, gray, resize_flow, visible
from legato.models.generator import Generator
from legato.ops import flow_warp
from legato.types import FrameAnswer, FrameJob, Synthesis

Observe = Callable[[str, int, float], None]  # stage, frames in the batch, seconds


@dataclass(slots=True, eq=False)
class _Batch:
    """N frames on their way: what is known of them so far."""

    jobs: Sequence[FrameJob]
    images: Tensor  # [N, 3, R, R] in [-1, 1]
    grays: list[NDArray[np.uint8]]  # N of [S, S]
    state: TrackerState  # N rows
    rebuilt: list[int] = field(default_factory=list)  # rows that have a reconstruction
    edited: list[int] = field(default_factory=list)  # rows that have an edited image
    stage_seconds: dict[str, float] = field(default_factory=dict)


class Pipeline:
    """Runs batches of frames, and keeps the state of the streams between them. Belongs to one thread.

    The generator and the encoder are frozen and switched to `dtype` inside their convolutions; latents, state and
    losses stay float32.

    Args:
        generator, encoder, directions: the model; they fit each other.
        slots: streams whose state is kept.
        max_steps: most gradient steps of one frame.
        dtype: torch.bfloat16 or torch.float32.
        tracker: weights and rates of the refinement.
        observe: called after each stage.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder,
        directions: Directions,
        *,
        slots: int,
        max_steps: int = 16,
        dtype: torch.dtype = torch.float32,
        tracker: TrackerOptions | None = None,
        observe: Observe = lambda stage, size, seconds: None,
    ) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.encoder = encoder.eval().requires_grad_(False)
        self.generator.autocast_dtype = self.encoder.autocast_dtype = None if dtype == torch.float32 else dtype
        self.directions = directions
        self.resolution = generator.config.resolution
        self.max_steps = max_steps
        self.device = generator.w_avg.device
        self._tracker = Tracker(generator, tracker)
        self._observe = observe
        self._side = min(self.resolution, MAX_SIDE)
        self._flow = DisFlow()
        self._slots = TrackerState.zeros(
            slots + 1,  # the last row is the state of a stream that has not begun
            layers=generator.num_layers,
            dim=generator.config.w_dim,
            resolution=self.resolution,
            flow_side=self._side,
            device=self.device,
        )

    def reset(self, slot: int) -> None:
        """Makes a slot that of a stream that has not begun."""
        self._slots.reset(slot)

    def check(self, job: FrameJob) -> None:
        """Raises InvalidInput or InvalidEdit for a job that this model cannot run."""
        r = self.resolution
        if job.frame.pixels.shape != (r, r, 3):
            raise InvalidInput(f"a frame of this model is [{r}, {r}, 3]; got {list(job.frame.pixels.shape)}")
        if job.flow is not None and job.flow.vectors.shape != (2, r, r):
            raise InvalidInput(f"a flow of this model is [2, {r}, {r}]; got {list(job.flow.vectors.shape)}")
        if not 0 <= job.max_steps <= self.max_steps:
            raise InvalidInput(f"a frame takes 0 to {self.max_steps} steps; got {job.max_steps}")
        for edit in job.edits:
            self.directions.info(edit.direction)

    def run(self, jobs: Sequence[FrameJob]) -> list[FrameAnswer | LegatoError]:
        """Answers frames uint8 [R, R, 3], at most one of each slot; one answer a job, in the same order.

        A job that is wrong, or whose numbers do not stay finite, is answered with its error and leaves its slot's state
        as it was. An exception leaves every slot's state as it was.
        """
        answers: dict[int, FrameAnswer | LegatoError] = {}
        for row, job in enumerate(jobs):
            try:
                self.check(job)
            except LegatoError as error:
                answers[row] = error
        valid = [row for row in range(len(jobs)) if row not in answers]
        if valid:
            answers |= dict(zip(valid, self._run([jobs[row] for row in valid]), strict=True))
        return [answers[row] for row in range(len(jobs))]

    def synthesize(self, call: SynthesisCall) -> Synthesis:
        """The image of the call's latents [L, D], or of those that its seed draws, with its edits.

        Raises InvalidInput or InvalidEdit for what this model cannot synthesize.
        """
        shape = (self.generator.num_layers, self.generator.config.w_dim)
        with torch.inference_mode():
            if call.latents is not None:
                if call.latents.shape != shape:
                    raise InvalidInput(f"latents of this model are {list(shape)}; got {list(call.latents.shape)}")
                if not np.isfinite(call.latents).all():
                    raise InvalidInput("latents are finite numbers; got NaN or infinity")
                code = torch.tensor(call.latents, dtype=torch.float32, device=self.device)[None]
            else:
                if not math.isfinite(call.truncation):
                    raise InvalidInput(f"truncation is a finite number; got {call.truncation}")
                drawn = torch.randn(1, self.generator.config.z_dim, generator=torch.Generator().manual_seed(call.seed))
                code = self.generator.map(drawn.to(self.device), call.truncation)
            image = self.generator(self.directions.edit(code, [call.edits]))
            return Synthesis(to_pixels(image)[0], code[0].cpu().numpy())

    def _run(self, jobs: Sequence[FrameJob]) -> list[FrameAnswer | LegatoError]:
        steps = [job.max_steps for job in jobs]
        with torch.no_grad() if any(steps) else torch.inference_mode():
            batch = self._gather(jobs)
            with self._stage(batch, "encode"):
                encoded = self.encoder(batch.images)
            with self._stage(batch, "warp", any(steps)):
                motion = self._warp(batch) if any(steps) else None
            with self._stage(batch, "refine", any(steps)):
                latents = self._tracker.refine(batch.state, encoded, batch.images, steps, motion)
            with self._stage(batch, "edit"):
                edited = self._edit(batch, latents)
            with self._stage(batch, "synthesize"):
                images = self._synthesize(batch, latents, edited)
            return self._settle(batch, latents, images)

    def _gather(self, jobs: Sequence[FrameJob]) -> _Batch:
        frames = np.stack([job.frame.pixels for job in jobs])
        images = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        grays = [gray(frame, self._side) for frame in frames]
        return _Batch(jobs, images, grays, self._slots.gather([job.slot for job in jobs]))

    def _warp(self, batch: _Batch) -> Motion:
        """Each row's last output, warped into its frame; nothing is visible of rows that have none or take no steps."""
        n, r = len(batch.jobs), self.resolution
        flow = torch.zeros(n, 2, r, r)
        trusted = torch.zeros(n, 1, r, r)
        for row, job in enumerate(batch.jobs):
            if job.max_steps == 0 or not batch.state.has_output[row]:
                continue
            if job.flow is not None:
                pull, back = torch.tensor(job.flow.vectors)[None], None
            else:
                pull, back = self._flow.both(batch.grays[row], batch.state.gray[row].numpy())
            pull, seen = resize_flow(pull, r), visible(pull, back)
            flow[row] = pull[0]
            trusted[row] = torch.nn.functional.interpolate(seen, size=(r, r))[0]
        return Motion(flow_warp(batch.state.output, flow.to(self.device))[0], trusted.to(self.device))

    def _edit(self, batch: _Batch, latents: Tensor) -> Tensor:
        """Edited latents [E, L, D] of the rows that ask for an edited image, which it notes."""
        batch.edited = [row for row, job in enumerate(batch.jobs) if job.edits and job.outputs.edited]
        return self.directions.edit(latents[batch.edited], [batch.jobs[row].edits for row in batch.edited])

    def _synthesize(self, batch: _Batch, latents: Tensor, edited: Tensor) -> Tensor:
        """Images [M + E, 3, R, R]: reconstructions where they are asked for or the tracker needs them, then edits."""
        age = batch.state.age.tolist()
        batch.rebuilt = [row for row, job in enumerate(batch.jobs) if job.outputs.reconstruction or age[row] > 0]
        codes = torch.cat([latents[batch.rebuilt], edited])
        if not len(codes):
            return batch.images[:0]
        images: Tensor = self.generator(codes)
        return images

    def _settle(self, batch: _Batch, latents: Tensor, images: Tensor) -> list[FrameAnswer | LegatoError]:
        """Moves the state on, writes it back, and makes the answers."""
        state, jobs = batch.state, batch.jobs
        db = self._measure(batch, images[: len(batch.rebuilt)])
        state.latents = latents
        state.version += 1
        for row, gray_pixels in enumerate(batch.grays):
            state.gray[row] = torch.from_numpy(gray_pixels)
        spoiled = set(torch.nonzero(~_finite(latents) | ~_finite(state.correction)).flatten().tolist())
        owners = batch.rebuilt + batch.edited
        spoiled |= {owners[index] for index in torch.nonzero(~_finite(images)).flatten().tolist()}
        self._slots.scatter([job.slot for job in jobs], state, [row for row in range(len(jobs)) if row not in spoiled])
        pixels = to_pixels(images)
        rebuilt = dict(zip(batch.rebuilt, pixels, strict=False))
        edited = dict(zip(batch.edited, pixels[len(batch.rebuilt) :], strict=True))
        return [
            _not_finite()
            if row in spoiled
            else FrameAnswer(
                seq=job.seq,
                reconstruction=rebuilt[row] if job.outputs.reconstruction else None,
                edited=edited.get(row),
                latents=latents[row].cpu().numpy() if job.outputs.latents else None,
                psnr_db=db.get(row, math.nan),
                steps=job.max_steps,
                state_version=int(state.version[row]),
                stage_seconds=dict(batch.stage_seconds),
            )
            for row, job in enumerate(jobs)
        ]

    def _measure(self, batch: _Batch, rebuilt: Tensor) -> dict[int, float]:
        """PSNR of the rows that have a reconstruction, which becomes their last output.

        The residual of rows that took no step goes to the tracker, which has seen that of the others.
        """
        state, index = batch.state, torch.tensor(batch.rebuilt, dtype=torch.int64, device=self.device)
        state.has_output[:] = False
        state.output[index], state.has_output[index] = rebuilt, True
        frames = batch.images[index]
        still = [n for n, row in enumerate(batch.rebuilt) if batch.jobs[row].max_steps == 0]
        if still:
            self._tracker.observe(state, index[still], l1(rebuilt[still], frames[still]))
        return dict(zip(batch.rebuilt, psnr(rebuilt, frames).tolist(), strict=True))

    @contextmanager
    def _stage(self, batch: _Batch, name: str, counted: bool = True) -> Iterator[None]:
        """Times a stage of a batch, unless it has nothing to do."""
        began = time.perf_counter()
        yield
        if counted:
            batch.stage_seconds[name] = time.perf_counter() - began
            self._observe(name, len(batch.jobs), batch.stage_seconds[name])


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """uint8 [B, R, R, 3] of images [B, 3, R, R] in [-1, 1]."""
    rounded = images.float().clamp(-1.0, 1.0).add_(1.0).mul_(127.5).round_().to(torch.uint8)
    pixels: NDArray[np.uint8] = torch.stack(rounded.unbind(1), -1).cpu().numpy()  # faster than a permuted copy
    return pixels


def _finite(values: Tensor) -> Tensor:
    """Whether all of each row [N, ...] is finite: bool [N]. By its sum, five times as fast as by its elements."""
    return values.flatten(1).sum(1).isfinite()


def _not_finite() -> LegatoError:
    message = "the model gave NaN or infinity for this frame; its session goes on as before it"
    return LegatoError(message, reason="NOT_FINITE")
