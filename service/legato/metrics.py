"""Every metric of legato, by its name. Base units, bounded labels; buckets of times stand at frame periods.

One instance per server, handed to whoever observes; nothing is global. It answers the engine's observer protocol
(`batch`, `steps`, `psnr`, `queue`, `heartbeat`) and the stream's calls (`received`, `settled`, `answered`).
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from legato.errors import ConfigError
from legato.options import DropReason
from legato.work import Failed, Outcome, Work

FRAME_PERIODS = (1 / 240, 1 / 120, 1 / 60, 1 / 30, 1 / 25, 1 / 15, 0.08, 0.1, 0.2, 0.5, 1.0, 5.0)  # seconds
STAGE_SECONDS = (0.0005, 0.001, 0.002, *FRAME_PERIODS)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
STEPS = (0, 1, 2, 4, 8, 16, 32)
PSNR_DB = (10, 15, 20, 22, 24, 26, 28, 30, 32, 34, 36, 40)
STAGES = ("decode", "queue", "encode", "residual", "warp", "refine", "synthesize", "edit", "encode_image")
SESSION_OUTCOMES = ("closed", "expired", "refused", "shutdown")
CLIP_OUTCOMES = ("completed", "canceled", "failed", "refused", "shutdown")
LOAD_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
CLIP_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


class Engines(Protocol):
    """The engines of a server: frames that wait, over all; the oldest of their last signs of life, monotonic."""

    @property
    def queue_depth(self) -> int: ...
    @property
    def heartbeat(self) -> float: ...


class Metrics:
    """All metrics of one server, in its own registry."""

    def __init__(self, *, version: str) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)

        self.frames_received = counter("legato_frames_received_total", "Frames that arrived")
        self.frames_completed = counter("legato_frames_completed_total", "Frames that the engine answered")
        self.frames_on_time = counter("legato_frames_on_time_total", "Frames answered within their deadline")
        self.frames_dropped = counter("legato_frames_dropped_total", "Frames passed over", ["reason"])
        self.frames_failed = counter("legato_frames_failed_total", "Frames that could not be answered")
        self.frame_age = histogram(
            "legato_frame_age_seconds", "Arrival of a frame to its answer", buckets=FRAME_PERIODS
        )
        self.frame_stage = histogram(
            "legato_frame_stage_duration_seconds", "Time of one frame in a stage", ["stage"], buckets=STAGE_SECONDS
        )
        self.batch_size = histogram("legato_batch_size", "Frames that ran together", ["stage"], buckets=BATCH_SIZES)
        self.refine_steps = histogram("legato_refine_steps", "Gradient steps on a frame", buckets=STEPS)
        self.window_steps = counter("legato_window_steps_total", "Gradient steps on keyframes of streams' windows")
        self.reconstruction_psnr = histogram(
            "legato_reconstruction_psnr_db", "Reconstruction against the frame, sampled", buckets=PSNR_DB
        )
        self.queue_depth = gauge("legato_queue_depth", "Frames that wait for the engine")
        self.sessions_active = gauge("legato_sessions_active", "Sessions that hold state, with or without a stream")
        self.sessions = counter("legato_sessions_total", "Sessions that ended, or were refused", ["outcome"])
        self.session_resumes = counter("legato_session_resumes_total", "Sessions that a new stream took up again")
        self.clip_inversions = counter("legato_clip_inversions_total", "Calls of InvertClip that ended", ["outcome"])
        self.clip_seconds = histogram("legato_clip_seconds", "Time that a clip's inversion took", buckets=CLIP_SECONDS)
        self.clip_steps = counter("legato_clip_steps_total", "Steps of clips that were inverted")
        self.state_bytes = gauge(
            "legato_state_bytes", "Memory of the model's device that is kept for each one", ["kind"]
        )
        self.largest_batch_size = gauge("legato_largest_batch", "Largest batch that is run, in frames")
        self.out_of_memory = counter("legato_out_of_memory_total", "Batches that the device had no memory for")
        self.captured = gauge("legato_graphs", "Sizes of a batch that run as one graph, or directly", ["stage", "run"])
        self.engine_heartbeat = gauge(
            "legato_engine_heartbeat_timestamp_seconds", "Last sign of life of the engine, seconds since the epoch"
        )
        self.model_versions = gauge("legato_model_versions", "Versions of a model in memory", ["model"])
        self.model_sessions = gauge("legato_model_sessions", "Sessions of a model, over its versions", ["model"])
        self.model_loads = counter(
            "legato_model_loads_total", "Versions that were loaded, or could not be", ["model", "outcome"]
        )
        self.model_load_seconds = histogram(
            "legato_model_load_seconds", "Time to load and warm a version", buckets=LOAD_SECONDS
        )
        self.op_info = gauge("legato_op_info", "Implementation of each op that is live", ["op", "implementation"])
        self.build_info = gauge("legato_build_info", "Version of the server", ["version"])

        self.build_info.labels(version).set(1)
        for reason in DropReason:
            self.frames_dropped.labels(reason.value.lower())
        for outcome in SESSION_OUTCOMES:
            self.sessions.labels(outcome)
        for outcome in CLIP_OUTCOMES:
            self.clip_inversions.labels(outcome)

    def batch(self, stage: str, size: int, seconds: float) -> None:
        """`size` frames ran a stage together in `seconds`."""
        self.batch_size.labels(stage).observe(size)

    def steps(self, n: int) -> None:
        """A frame took `n` gradient steps."""
        self.refine_steps.observe(n)

    def psnr(self, db: float) -> None:
        """A frame's reconstruction came out at `db`."""
        self.reconstruction_psnr.observe(db)

    def queue(self, depth: int) -> None:
        """`depth` frames wait."""
        self.queue_depth.set(depth)

    def window(self, keyframes: int) -> None:
        """So many keyframes of a stream's window took a step."""
        self.window_steps.inc(keyframes)

    def memory(self, session: int, in_flight: int) -> None:
        """What is kept for each session, and for each frame in flight: bytes."""
        self.state_bytes.labels("session").set(session)
        self.state_bytes.labels("frame_in_flight").set(in_flight)

    def model(self, name: str, versions: int, sessions: int) -> None:
        """A model has so many versions in memory, and so many sessions."""
        self.model_versions.labels(name).set(versions)
        self.model_sessions.labels(name).set(sessions)

    def model_load(self, name: str, outcome: str, seconds: float) -> None:
        """A version was "loaded" in so many seconds, or "failed" after them."""
        self.model_loads.labels(name, outcome).inc()
        self.model_load_seconds.observe(seconds)

    def watch(self, engines: Engines) -> None:
        """Asks all engines at once for what each of them tells of itself alone."""
        self.queue_depth.set_function(lambda: engines.queue_depth)
        self.engine_heartbeat.set_function(lambda: time.time() - time.monotonic() + engines.heartbeat)

    def largest_batch(self, size: int, *, out_of_memory: bool) -> None:
        """`size` frames run together at most; less than before because there was no memory for more."""
        self.largest_batch_size.set(size)
        if out_of_memory:
            self.out_of_memory.inc()

    def graphs(self, stage: str, captured: int, direct: int) -> None:
        """In how many sizes of a batch a stage was captured, and in how many it could not be."""
        self.captured.labels(stage, "captured").set(captured)
        self.captured.labels(stage, "direct").set(direct)

    def heartbeat(self) -> None:
        """The engine lives."""
        self.engine_heartbeat.set(time.time())

    def received(self) -> None:
        """A frame arrived."""
        self.frames_received.inc()

    def settled(self, work: Work, outcome: Outcome) -> None:
        """A frame was answered by the engine, failed or was dropped."""
        if isinstance(outcome, Failed):
            self.frames_failed.inc()
        elif isinstance(outcome, DropReason):
            self.frames_dropped.labels(outcome.value.lower()).inc()
        else:
            self.frames_completed.inc()

    def clip_done(self, seconds: float, steps: int) -> None:
        """A clip's inversion took so long and so many steps."""
        self.clip_seconds.observe(seconds)
        self.clip_steps.inc(steps)

    def answered(self, age: float, deadline: float, stages: Mapping[str, float]) -> None:
        """A result leaves: its age and deadline in seconds after arrival, the seconds of its stages."""
        self.frame_age.observe(age)
        if age <= deadline:
            self.frames_on_time.inc()
        for stage, seconds in stages.items():
            self.frame_stage.labels(stage if stage in STAGES else "other").observe(seconds)

    def ops(self, implementations: Mapping[str, str]) -> None:
        """Which implementation of each op is live."""
        for op, implementation in implementations.items():
            self.op_info.labels(op, implementation).set(1)


class MetricsPage:
    """The Prometheus page on a port of its own. `address` is where it listens.

    Raises ConfigError when the address cannot be listened on.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        try:
            server, thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise ConfigError(
                f"the metrics port {port} of {host} {why}; choose another with --metrics-port, 0 for a free one"
            ) from error
        self._server: WSGIServer = server
        self._thread: threading.Thread = thread
        self.address = f"{host}:{server.server_port}"

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
