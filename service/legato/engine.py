"""The one thread that owns the device: it takes an action, runs it, and gives the answers.

Every call is thread-safe and returns at once, except `start` and `stop`. What touches the model or the slots' state
happens on the engine's own thread; the lock guards the queue and the list of free slots, and is never held during work.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from legato.background import Background, stopping
from legato.calls import Action, Call, CallQueue, Done, EngineObserver, FrameCall, SynthesisCall, Unobserved
from legato.clips import Clips
from legato.deltas import Deltas
from legato.devices import watched
from legato.editing.directions import Directions
from legato.engine_options import EngineOptions, compute_dtype
from legato.errors import DeviceLost, NotFound, Overloaded, ShuttingDown
from legato.models.encoder import ImageEncoder
from legato.models.generator import Generator
from legato.models.refiners import Refiners
from legato.pipeline import Pipeline
from legato.slots import Slots
from legato.spare import WindowTurns
from legato.stages import Stages
from legato.types import DirectionInfo, Edit, FrameAnswer, FrameJob, ModelInfo, Synthesis
from legato.warmup import prepare

HEARTBEAT_SECONDS = 0.25  # longest sleep of an idle engine
JOIN_SECONDS = 30.0  # what a running batch may still take after `stop`
PATIENCE_SECONDS = 0.25  # a clip that is worked on waits so long for live frames at most, then computes one part

log = logging.getLogger(__name__)


class Engine:
    """Runs frames of many sessions through one model. `model` and `directions` tell what it serves.

    `heartbeat` is the monotonic time of the engine's last sign of life; `ready` is True between the end of the warm-up
    and `stop`; `over` ends when the thread does, with the error if it was one. What is submitted to `background`, such
    as an inversion by `clips`, runs while no frame waits; so do the streams' windows, for their share of the time.

    Args:
        generator, encoder, directions, refiners: the model.
        queue: an empty Scheduler with the same buckets and room in flight. The engine calls it under its own lock.
        options: capacity and work per frame.
        name, version, description: of the model, as clients see it.
        observer: hears what happens.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: ImageEncoder,
        directions: Directions,
        *,
        queue: CallQueue,
        refiners: Refiners | None = None,
        options: EngineOptions | None = None,
        name: str = "default",
        version: str = "",
        description: str = "",
        observer: EngineObserver | None = None,
    ) -> None:
        self.options = options or EngineOptions()
        self.capacity = self.options.max_sessions
        self.heartbeat, self.ready = time.monotonic(), False
        size = (generator.config.resolution, generator.num_layers, generator.config.w_dim)
        self.model = ModelInfo(name, generator.digest, *size, description, version, encoder.digest)
        self._observer = observer or Unobserved()
        self._pipeline = Pipeline(
            generator,
            encoder,
            directions,
            slots=self.capacity,
            refiners=refiners,
            in_flight=self.options.in_flight,
            max_steps=self.options.max_steps,
            dtype=compute_dtype(self.options.precision, generator.w_avg.device),
            tracker=self.options.tracker,
            window=self.options.window,
            image_sizes=self.options.image_sizes,
            flow=self.options.flow,
            observe=lambda stage, size, seconds: self._observer.batch(stage, size, seconds) if self.ready else None,
        )
        self.deltas = Deltas(self.options.deltas, generator, self.model)
        rows, turns, runner = self.options.clip_rows, self.options.turns, self._pipeline.runner
        self.clips = Clips(generator, encoder, directions, rows=rows, runner=runner, turns=turns)
        self.background = Background(self.options.clips, lambda: self._locked(self._changed.notify))
        self._queue, self._changed, self._slots = queue, threading.Condition(), Slots(self.capacity)
        self._windows = WindowTurns(self.options.window.share, self._pipeline, queue)
        self._closed = list[Call]()  # waited for a slot that was closed; to be answered before the next batch
        self._stopping, self._drain_until = False, math.inf
        self._started, self.over = threading.Event(), Future[None]()
        self._stages = Stages(self._pipeline, self.options.batch_buckets, self._shrink, turns, self.deltas)
        self._observer.memory(self._pipeline.session_bytes, self._pipeline.flight_bytes)
        self._thread = threading.Thread(target=self._main, name="legato-engine", daemon=True)

    # any thread -----------------------------------------------------------------------------------------------------

    @property
    def directions(self) -> list[DirectionInfo]:
        """The named directions, with what was measured of them."""
        return [self._pipeline.directions.info(name) for name in self._pipeline.directions.names]

    @property
    def queue_depth(self) -> int:
        """Calls that wait."""
        return len(self._queue)

    def start(self) -> None:
        """Starts the thread; returns when every bucket is warm. Raises what the warm-up raised."""
        self._thread.start()
        self._started.wait()
        if self.over.done():
            self.over.result()

    def stop(self, timeout: float) -> None:
        """Takes nothing new, works on what waits for up to `timeout` seconds, answers the rest with ShuttingDown."""
        with self._changed:
            self.ready = False
            self._stopping, self._drain_until = True, min(self._drain_until, time.monotonic() + timeout)
            self._changed.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout + JOIN_SECONDS)
            if self._thread.is_alive():
                log.error("a batch did not end within %.0f seconds of the stop", timeout + JOIN_SECONDS)

    def release(self) -> None:
        """Lets go of the model, after `stop` and for ever; what is left of this engine holds none of its memory."""
        del self._pipeline, self._stages, self._windows, self.clips, self.deltas

    def open_slot(self) -> int:
        """A slot for a new session, as fresh.

        Raises Overloaded: SESSIONS_FULL when there is none, OVERLOADED while most calls come too late.
        """
        with self._changed:
            if self._queue.overloaded(time.monotonic()):
                raise Overloaded("more frames come in than can be answered in time; try again later")
            return self._slots.open()

    def close_slot(self, slot: int) -> None:
        """Frees a slot; its frames that are not done are answered with NotFound (SESSION_CLOSED)."""
        with self._changed:
            self._slots.close(slot)
            self._closed += self._queue.forget(slot)
            self.deltas.take_back(slot)
            self._changed.notify()

    def reset_slot(self, slot: int) -> None:
        """Forgets what a session's frames have taught; a frame that is in flight is answered, and teaches nothing."""
        with self._changed:
            self._slots.reset(slot)

    def submit(self, job: FrameJob, done: Done) -> None:
        """Queues a frame. `done` gets the answer or the error, once, on the engine's thread; it may not block.

        Raises Overloaded (QUEUE_FULL) when the queue is full, ShuttingDown after `stop`.
        """
        self._add(FrameCall(job, done, time.monotonic()))

    def cancel(self, slot: int, seq: int) -> bool:
        """Takes a frame back if it has not begun: True, and its `done` is never called."""
        with self._changed:
            return self._queue.cancel(slot, seq) is not None

    def synthesize(
        self,
        latents: NDArray[np.float32] | None = None,
        *,
        seed: int = 0,
        truncation: float = 0.7,
        edits: Sequence[Edit] = (),
    ) -> Future[Synthesis]:
        """Queues the synthesis of latents [L, D], or of those that `seed` draws (the edits apply to the image alone).

        Raises as `submit`. The future raises InvalidInput or InvalidEdit for what the model cannot synthesize.
        """
        future: Future[Synthesis] = Future()
        self._add(SynthesisCall(latents, seed, truncation, tuple(edits), future))
        return future

    def _add(self, call: Call) -> None:
        with self._changed:
            if self._stopping:
                raise ShuttingDown("the server is stopping; connect to another one, or try again later")
            self._queue.add(call, time.monotonic())
            self._changed.notify()

    def _locked(self, tell: Callable[..., None], *what: Any) -> None:
        with self._changed:
            tell(*what)

    # the engine's thread --------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Take an action, run it, give the answers that came of it; improve a stream where none came, or one asks."""
        action = self._take()
        idle = action is None and not self._stages.busy
        for done, ended, seconds in self._stages.turn(action):
            self._windows.taken(seconds)
            with self._changed:
                left = self._queue.done(done, time.monotonic(), seconds, ended=ended)
            for call in left:
                self._give(call, ended[call])
        self._beat()
        with self._changed:
            due = self._windows.due(self.heartbeat, idle=idle, alone=action is None)
        if due:
            self._observer.window(self._stages.improve())
            self._windows.took((now := time.monotonic()) - self.heartbeat, now)

    def _take(self) -> Action | None:
        """The next action; None when none came up within a heartbeat. New slots are reset, closed ones answered."""
        with self._changed:
            action = self._queue.next(now := time.monotonic(), flush=self._stopping)
            idle = not self.background.ready or len(self._queue)  # calls that wait for company wait beside a clip too
            busy = self._stages.busy or self._closed or self._stopping or self._pipeline.owes
            if action is None and idle and not busy:
                self._changed.wait(min(self._queue.wake_time(now) - now, self._windows.wait(now), HEARTBEAT_SECONDS))
                action = self._queue.next(time.monotonic(), flush=self._stopping)
            resets = self._slots.take_resets()
            closed, self._closed = self._closed, []
            self._observer.queue(len(self._queue))
        self._stages.abandon(closed)
        for slot in resets:
            self._pipeline.reset(slot)
        for call in closed:
            self._give(call, NotFound("the session was closed before this frame was done", reason="SESSION_CLOSED"))
        return action

    def _pause(self) -> None:
        """Between two parts of a clip: what waits is run first. Raises ShuttingDown after `stop`."""
        self._beat()
        until = time.monotonic() + PATIENCE_SECONDS
        while ((own := self._queue.busy or self._closed) or self.options.turns.rest()) and time.monotonic() < until:
            if own:
                self.step()
        if self._stopping:
            raise stopping()

    def _give(self, call: Call, result: Any) -> None:
        """Answers a call."""
        if isinstance(result, FrameAnswer) and isinstance(call, FrameCall):
            waited = max(0.0, time.monotonic() - call.since - sum(result.stage_seconds.values()))
            result = replace(result, stage_seconds={"queue": waited, **result.stage_seconds})
            self._observer.steps(result.steps)
            if not math.isnan(result.psnr_db):
                self._observer.psnr(result.psnr_db)
        try:
            call.give(result)
        except Exception:
            log.exception("the receiver of an answer failed; the engine goes on")

    def _beat(self) -> None:
        self.heartbeat = time.monotonic()
        self._observer.heartbeat()

    def _main(self) -> None:
        """Warm up, step until stopped and drained, refuse what is left."""
        failure: BaseException | None = None
        try:
            if self.options.threads:
                torch.set_num_threads(self.options.threads)
            with watched(self._pipeline.runner):
                seed = partial(self._locked, self._queue.seed)
                prepare(self._pipeline, self.options, self._beat, seed, self._shrink, self._observer)
                self.ready = not self._stopping
                self._started.set()
                while not self._stopping or (self._queue.busy and time.monotonic() < self._drain_until):
                    self.step()
                    self.background.run_next(self._pause)
        except BaseException as error:
            log.critical("the engine ends: %s", error, exc_info=not isinstance(error, DeviceLost))
            failure = error
        with self._changed:
            self.ready, self._stopping = False, True
            rest = self._closed + self._queue.drain()
        self.over.set_result(None) if failure is None else self.over.set_exception(failure)  # health first
        self.background.close()
        for call in rest:
            self._give(call, ShuttingDown("the server stopped before this frame ran; send it to another one"))
        self._started.set()

    def _shrink(self, largest: int) -> None:
        self._locked(self._queue.shrink, largest)  # there was no memory for a larger batch
        self._observer.largest_batch(largest, out_of_memory=True)
