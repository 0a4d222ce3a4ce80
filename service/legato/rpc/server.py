"""The server's life: bind, start, serve, drain, stop. Limits, keepalive, health, reflection and metrics are set here.

async with Server(config, metrics) as server:      both ports are taken, or ConfigError
    await server.start(models)                      readiness follows the engines' heartbeats
    print(server.address)
    await server.drain()                            health NOT_SERVING, go_away, streams finish or are ended
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from legato.alignment import FaceFinder
from legato.config import Config
from legato.errors import ConfigError, LegatoError, ShuttingDown
from legato.metrics import Metrics, MetricsPage
from legato.models_served import Models
from legato.rpc.clip import ClipDesk
from legato.rpc.control import ModelControl
from legato.rpc.edits import EditRules
from legato.rpc.interceptors import ErrorInterceptor
from legato.rpc.messages import Reader, model_ref
from legato.rpc.servicer import Servicer
from legato.rpc.stream import Parts, SessionStream
from legato.served import Served
from legato.store import SessionStore
from legato_pb import inversion_pb2, inversion_pb2_grpc

if TYPE_CHECKING:
    from legato.engine import Engine

SERVICE = inversion_pb2.DESCRIPTOR.services_by_name["InversionService"].full_name
HARD_MESSAGE_FACTOR = (
    2  # between the limit and this many times it, a frame is refused in the stream; beyond, gRPC cuts it
)
WATCH_SECONDS = 0.25
LAST_WORDS_SECONDS = 1.0

log = logging.getLogger(__name__)


class Server:
    """One gRPC server and its metrics page. `address` and `metrics_address` are known once entered."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self.address = ""
        self.metrics_address = ""
        self._config = config.server
        self._limits = config.engine
        self._metrics = metrics
        self._page: MetricsPage | None = None
        self._grpc: grpc.aio.Server | None = None
        self._models: Models | None = None
        self._servicer: Servicer | None = None
        self._store: SessionStore[SessionStream] | None = None
        self._clips: ClipDesk | None = None
        self._watch: asyncio.Task[None] | None = None
        self.failed = asyncio.Event()  # the engine has failed, and all clients were told
        self._faces = FaceFinder(self._config.face_detector, self._config.face_model)
        self._health = health.aio.HealthServicer()
        self._threads = ThreadPoolExecutor(self._config.codec_threads, thread_name_prefix="legato-codec")

    async def __aenter__(self) -> Self:
        config = self._config
        self._grpc = grpc.aio.server(
            interceptors=[ErrorInterceptor()],
            maximum_concurrent_rpcs=4 * self._limits.max_sessions + 64,
            options=_options(config.max_message_bytes),
        )
        self.address = _bind(self._grpc, config.host, config.port)
        if config.metrics_port >= 0:
            self._page = MetricsPage(self._metrics.registry, config.metrics_host, config.metrics_port)
            self.metrics_address = self._page.address
        return self

    async def start(self, models: Models | Engine) -> None:
        """Serves models, or one started engine."""
        assert self._grpc is not None
        config = self._config
        self._models = models = models if isinstance(models, Models) else Models.of(models)
        self._metrics.watch(models)
        self._store = store = SessionStore[SessionStream](
            max((engine.capacity for engine in models.engines), default=self._limits.max_sessions),
            resume_seconds=config.resume_seconds,
            ended=lambda outcome: self._metrics.sessions.labels(outcome).inc(),
        )
        self._metrics.sessions_active.set_function(lambda: len(store))
        limits = {"max_frames": config.max_clip_frames, "max_steps": config.max_clip_steps}
        self._clips = ClipDesk(models, self._parts_of, self._metrics, **limits)
        self._servicer = Servicer(
            models,
            self._parts_of,
            self._store,
            self._clips,
            ModelControl(models, self._threads, allowed=config.allow_model_control),
            credits=config.credits,
            resume_seconds=config.resume_seconds,
        )
        inversion_pb2_grpc.add_InversionServiceServicer_to_server(self._servicer, self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc)
        await self._set_health(alive=True)
        await self._grpc.start()
        self._watch = asyncio.create_task(self._watch_engines())
        failing = partial(self._engine_over, asyncio.get_running_loop())
        await asyncio.to_thread(models.over.add_done_callback, failing)  # it may be over already

    async def drain(self, because: LegatoError | None = None) -> None:
        """Refuses new sessions and clips, tells the streams to go, ends what is left after drain_seconds; at once where
        there is an error to tell."""
        assert self._grpc is not None
        await self._health.enter_graceful_shutdown()
        if self._servicer is None or self._store is None or self._clips is None:
            return
        self._servicer.draining = True
        left = 0.0 if because else self._config.drain_seconds
        for stream in self._store.streams:
            stream.go_away(left, because.reason if because else "SHUTDOWN")
        log.info("draining", extra={"fields": {"streams": len(self._store.streams), "seconds": left}})
        await self._all_over(left)
        self._clips.shut_down()
        told = because or ShuttingDown("the server stopped; open the session on another one, or try again later")
        for stream in self._store.streams:
            stream.shut_down(told)
        await self._all_over(LAST_WORDS_SECONDS)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._grpc is not None:
            await self._grpc.stop(LAST_WORDS_SECONDS)
        if self._store is not None:
            self._store.close_all("shutdown")
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._page is not None:
            self._page.close()

    def _engine_over(self, loop: asyncio.AbstractEventLoop, over: Future[None]) -> None:
        """On the thread of the engine that failed: before its calls are answered, health says that it is gone."""
        error, told = over.exception(), threading.Event()
        if not isinstance(error, LegatoError):
            error = LegatoError("the engine ended by an internal error; the server's log tells more")

        async def fail(because: LegatoError) -> None:
            await self._health.enter_graceful_shutdown()
            told.set()
            await self.drain(because)
            self.failed.set()

        failing = fail(error)
        try:
            asyncio.run_coroutine_threadsafe(failing, loop)
        except RuntimeError:  # the loop has ended before the engine
            failing.close()
            return
        told.wait(LAST_WORDS_SECONDS)

    def _parts_of(self, served: Served) -> Parts:
        """What the streams and calls of a version share. It is made anew for each, so that nothing outlives them."""
        engine, config = served.engine, self._config
        reader = Reader(
            model=engine.model,
            rules=EditRules(
                engine.model.name, [each.name for each in engine.directions], config.max_edits, config.max_variants
            ),
            max_message_bytes=config.max_message_bytes,
            max_pixels=config.max_pixels,
            max_steps=self._limits.max_steps,
            max_window_steps=self._limits.most_window_steps,
        )
        ref = model_ref(engine.model)
        return Parts(engine, reader, ref, self._metrics, self._threads, config.deadline_seconds, self._faces)

    async def _all_over(self, seconds: float) -> None:
        """Waits for streams and clips to end, but not for longer."""
        assert self._store is not None
        assert self._clips is not None
        over: list[asyncio.Task[Any]] = [asyncio.create_task(stream.over.wait()) for stream in self._store.streams]
        over.append(asyncio.create_task(self._clips.over()))
        _, waiting = await asyncio.wait(over, timeout=seconds)
        for task in waiting:
            task.cancel()

    async def _watch_engines(self) -> None:
        """Health follows the engines' heartbeats; sessions that waited long enough for a stream are freed."""
        assert self._models is not None
        assert self._store is not None
        alive = True
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for session in self._store.expire():
                log.info("session expired", extra={"fields": {"session": session.id}})
            silence = time.monotonic() - self._models.heartbeat
            if alive != (silence < self._config.heartbeat_seconds):
                alive = not alive
                log.log(
                    logging.INFO if alive else logging.ERROR,
                    "the engines are back" if alive else "an engine is silent",
                    extra={"fields": {"seconds": round(silence, 1)}},
                )
                await self._set_health(alive)

    async def _set_health(self, alive: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if alive else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)


@contextlib.contextmanager
def serve_in_thread(config: Config, metrics: Metrics, models: Models | Engine) -> Iterator[Server]:
    """A server in this process, on a thread and an event loop of its own, around models or one started engine.

    For tests and tools. Raises what `Server` raises; on leaving it drains. What it serves stays the caller's.
    """
    ready: Future[tuple[Server, Callable[[], object]]] = Future()

    async def live() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with Server(config, metrics) as server:
            await server.start(models)
            ready.set_result((server, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()
            await server.drain()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="legato-server")
    thread.start()
    try:
        server, stop = ready.result()
        try:
            yield server
        finally:
            stop()
    finally:
        thread.join()


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", HARD_MESSAGE_FACTOR * max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # a taken port is an error, not a second server behind the same address
        ("grpc.keepalive_time_ms", 20_000),  # finds clients whose network is gone
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]


def _bind(server: grpc.aio.Server, host: str, port: int) -> str:
    """Listens; gives the address for clients. Raises ConfigError with the system's reason."""
    if host.startswith("unix:"):
        target = host
    else:
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        _try_bind(host, port)  # gRPC itself says only that it failed
    try:
        chosen = server.add_insecure_port(target)
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {target}: {error}") from error
    return target if host.startswith("unix:") else f"{target.rpartition(':')[0]}:{chosen}"


def _try_bind(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ConfigError(f"port {port} of {host} {why}; choose another with --port, 0 for a free one") from error
