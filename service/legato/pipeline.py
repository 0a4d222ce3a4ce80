"""The path of frames through the model: encode -> correct -> warp -> refine -> edit -> synthesize.

A frame begins in one batch, takes each of its steps in another, and ends in a third; who shares them does not matter to
it. The last stage is in `legato.answering`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from legato.answering import IMAGE_SIZES, Answering, to_pixels
from legato.calls import SynthesisCall
from legato.devices import Device, in_words, open_device
from legato.editing.directions import Directions
from legato.errors import InvalidInput, LegatoError
from legato.flights import Flight, Flights, Observe, Stopwatch, state_bytes, state_sizes
from legato.inversion.streaming import Tracker, TrackerOptions
from legato.inversion.tracker_state import TrackerState
from legato.inversion.window import Window, WindowOptions
from legato.models.curvature import Curvature, CurvatureConfig
from legato.models.encoder import ImageEncoder
from legato.models.flow import FlowFinder
from legato.models.generator import Generator
from legato.models.refiners import Refiners
from legato.types import FrameAnswer, FrameJob, Synthesis
from legato.warping import Warping
from legato.weights import SlotWeights, Weights

log = logging.getLogger(__name__)


class Pipeline:
    """Runs batches of frames, and keeps the state of the streams between them. Belongs to one thread.

    A frame goes through `begin`, any number of times through `step`, then through `finish` or `abandon`. Until it is
    finished its slot's state is as it was before it. A stage that ran out of memory can be run again with fewer frames.

    The generator and the encoder are frozen and switched to `dtype` inside their convolutions; latents, state and
    losses stay float32.

    Args:
        generator, encoder, directions: the model; they fit each other.
        refiners: of this generator and encoder, where the model has them.
        slots: streams whose state is kept.
        in_flight: frames that may be between `begin` and `finish`.
        max_steps: most gradient steps of one frame.
        dtype: torch.bfloat16 or torch.float32.
        tracker: weights and rates of the refinement.
        window: what is kept of the streams' keyframes; None or a share of 0: no windows.
        image_sizes: how many images are synthesized at a time, increasing, with 1 among them.
        flow: finds the flow between frames that come without; None: DIS.
        observe: called after each stage.
        runner: what computes; None is the device that the generator lies on.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: ImageEncoder,
        directions: Directions,
        *,
        slots: int,
        refiners: Refiners | None = None,
        in_flight: int = 32,
        max_steps: int = 16,
        dtype: torch.dtype = torch.float32,
        tracker: TrackerOptions | None = None,
        window: WindowOptions | None = None,
        image_sizes: Sequence[int] = IMAGE_SIZES,
        flow: FlowFinder | None = None,
        observe: Observe = lambda stage, size, seconds: None,
        runner: Device | None = None,
    ) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.encoder = encoder.eval().requires_grad_(False)
        refiners = refiners or Refiners()
        for network in (self.generator, self.encoder, refiners.residual):
            if network is not None:
                network.autocast_dtype = None if dtype == torch.float32 else dtype
        self.directions = directions
        self.resolution = generator.config.resolution
        self.max_steps = max_steps
        self.device = generator.w_avg.device
        self.runner = runner or open_device(self.device)
        residual, curvature = refiners.residual, refiners.curvature
        residual = residual.to(self.device).eval().requires_grad_(False) if residual is not None else None
        if curvature is None:
            curvature = Curvature(CurvatureConfig(generator.num_layers, generator.config.w_dim))
        curvature = curvature.to(self.device)
        self._tracker = Tracker(generator, curvature, residual, tracker, self.runner.run)
        self._window: Window | None = None
        if window is not None and window.share > 0.0:
            self._window = Window(
                generator, curvature, slots=slots, resolution=self.resolution, device=self.device, options=window
            )
        self._stage = Stopwatch(observe, self.runner)
        self.image_sizes = tuple(image_sizes)
        self._answering = Answering(
            self.generator, directions, self._tracker, self._stage, self.image_sizes, self.runner, self._window
        )
        self._weights = SlotWeights(Weights(self.generator, self._tracker, self._answering))
        self._warping = Warping(self.resolution, self.device, flow)
        sizes = state_sizes(generator.config)
        self._slots = TrackerState.zeros(slots + 2, **sizes, device=self.device)
        self._flights = Flights(in_flight, **sizes, device=self.device)
        self.session_bytes, self.flight_bytes = state_bytes(generator.config)
        if self._window is not None:
            self.session_bytes += self._window.bytes_of_slot

    def reset(self, slot: int) -> None:
        """Makes a slot that of a stream that has not begun. A frame in flight will not change it any more."""
        self._slots.reset(slot)
        if self._window is not None:
            self._window.reset(slot)
        for flight in self._flights:
            if flight.job.slot == slot:
                flight.kept = False

    def tune(self, slot: int, generator: Generator | None) -> None:
        """Gives a slot's stream a generator of its own, of the model's sizes; None: the model's again."""
        self._weights.set(slot, generator)

    def check(self, job: FrameJob) -> None:
        """Raises InvalidInput or InvalidEdit for a job that this model cannot run."""
        r = self.resolution
        if job.frame.pixels.shape != (r, r, 3):
            raise InvalidInput(f"a frame of this model is [{r}, {r}, 3]; got {list(job.frame.pixels.shape)}")
        if job.flow is not None and job.flow.vectors.shape != (2, r, r):
            raise InvalidInput(f"a flow of this model is [2, {r}, {r}]; got {list(job.flow.vectors.shape)}")
        if not 0 <= job.max_steps <= self.max_steps:
            raise InvalidInput(f"a frame takes 0 to {self.max_steps} steps; got {job.max_steps}")
        for edit in (edit for edits in (job.edits, *job.variants) for edit in edits):
            self.directions.info(edit.direction)

    def run(self, jobs: Sequence[FrameJob]) -> list[FrameAnswer | LegatoError]:
        """Answers frames uint8 [R, R, 3], at most one of each slot; one answer a job, in the same order.

        A job that is wrong, or whose numbers do not stay finite, is answered with its error and leaves its slot's state
        as it was. An exception leaves every slot's state as it was.
        """
        begun = self.begin(jobs)
        flights = [flight for flight in begun if isinstance(flight, Flight)]
        try:
            while wanting := [flight for flight in flights if flight.taken < flight.job.max_steps]:
                self.step(wanting)
            answers = iter(self.finish(flights))
        finally:
            self.abandon(flights)
        return [next(answers) if isinstance(flight, Flight) else flight for flight in begun]

    def begin(self, jobs: Sequence[FrameJob]) -> list[Flight | LegatoError]:
        """Encodes frames, at most one of each slot; each job's flight, or what is wrong with it, in the same order."""
        wrong: dict[int, LegatoError] = {}
        for row, job in enumerate(jobs):
            try:
                self.check(job)
            except LegatoError as error:
                wrong[row] = error
        flights = self._flights.enter([job for row, job in enumerate(jobs) if row not in wrong])
        try:
            if flights:
                self._begin(flights)
        except BaseException:
            self.abandon(flights)
            raise
        left = iter(flights)
        return [wrong[row] if row in wrong else next(left) for row in range(len(jobs))]

    def step(self, flights: Sequence[Flight]) -> None:
        """One refine step of frames, which may be of different age. After an exception they can only be abandoned."""
        with self._stage(flights, "refine"), torch.no_grad():
            self._weights.step(flights, self._flights, self.runner)
        for flight in flights:
            flight.taken += 1

    def finish(self, flights: Sequence[Flight]) -> list[FrameAnswer | LegatoError]:
        """Synthesizes what frames ask for, moves their slots' state on, and lets them go; also when it raises, unless
        memory ran out: then they can be finished in smaller batches."""
        answers = self.conclude(flights)()
        self.lap()()
        return answers

    def conclude(self, flights: Sequence[Flight]) -> Callable[[], list[FrameAnswer | LegatoError]]:
        """`finish`, up to where it would wait for the device: what it gives waits, and lets the frames go."""
        if not flights:
            return list
        try:
            land = self._weights.answer(flights, self._flights, self._slots)
        except torch.OutOfMemoryError:
            raise
        except BaseException:
            self.abandon(flights)
            raise

        def landed() -> list[FrameAnswer | LegatoError]:
            try:
                return land()
            finally:
                self.abandon(flights)

        return landed

    def lap(self) -> Callable[[], None]:
        """What it gives waits for the device, and takes in how long it took for each stage since the last lap."""
        return self._stage.lap()

    def draw_at_most(self, images: int) -> None:
        """Synthesizes no more images than these at a time."""
        self.image_sizes = self._answering.sizes = tuple(size for size in self.image_sizes if size <= images)

    @property
    def improves(self) -> bool:
        """Whether a window has something to do."""
        return self._window is not None and self._window.ready

    @property
    def owes(self) -> bool:
        """Whether a stream has asked for steps on its window."""
        return self._window is not None and self._window.owes

    def improve(self) -> int:
        """One joint step of a stream's keyframes: of how many."""
        if self._window is None:
            return 0
        try:
            with self._stage([], "window"), torch.no_grad():
                return self._window.improve()
        except torch.OutOfMemoryError as error:
            log.error("out of memory: windows end here", extra={"fields": {"why": in_words(error)}})
            self._window = self._answering.window = None
        self.runner.relieve()
        return 0

    def abandon(self, flights: Sequence[Flight]) -> None:
        """Lets frames go; those that have gone already do no harm."""
        self._flights.leave(flights)

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
            image = self.directions.images(self.generator, code, [call.edits])
            return Synthesis(to_pixels(image)[0], code[0].cpu().numpy())

    @torch.inference_mode()
    def _begin(self, flights: list[Flight]) -> None:
        jobs, work = [flight.job for flight in flights], self._flights
        frames = self.runner.upload([job.frame.pixels for job in jobs])
        images = frames.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        grays = self._warping.grays(jobs)
        state = self._slots.gather([job.slot for job in jobs])
        with self._stage(flights, "encode"):
            encoded = self.runner.run("encode", self.encoder, images)
        encoded = self._weights.corrected(flights, images, encoded, self._stage)
        self._tracker.begin(state, encoded)
        self._follow(jobs, state)
        moving = [row for row, job in enumerate(jobs) if job.max_steps > 0]
        if moving and self._tracker.options.flow_weight > 0.0:
            walkers = [flights[row] for row in moving]
            with self._stage(walkers, "warp"):
                places = self.runner.put(torch.tensor(moving)), work.index(walkers)
                warped, visible = self._warping.warp(jobs, grays, state, moving)
                state.output[places[0]], work.visible[places[1]] = warped, visible
        state.gray = grays
        index = work.index(flights)
        work.images[index] = images
        work.state.scatter([flight.row for flight in flights], state, range(len(flights)))

    def _follow(self, jobs: Sequence[FrameJob], state: TrackerState) -> None:
        """Moves the corrections of the streams towards what their windows found, by the time since the last frame."""
        arrival = torch.tensor([job.arrival for job in jobs], dtype=torch.float64)
        seconds, state.arrival = (arrival - state.arrival).clamp(0.0, 1.0), arrival
        if self._window is None:
            return
        target, known = self._window.target([job.slot for job in jobs], state.encoded)
        rate = 1.0 - torch.exp(-seconds.float() / self._window.options.blend_seconds)
        steps = torch.tensor([job.max_steps > 0 for job in jobs])
        rate = torch.where(steps, rate.clamp_max(self._tracker.options.pull), rate)
        self._tracker.pull(state, target, self.runner.put(rate) * (known & (state.frames > 0)))
