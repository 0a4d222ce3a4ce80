"""A real engine with a tiny model behind a real server; most tests share one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from legato.commands.serve import build_engine
from legato.config import Config, EngineConfig, ServerConfig
from legato.engine import Engine
from legato.metrics import Metrics
from legato.rpc.server import serve_in_thread
from legato.types import Frame, FrameJob
from legato_pb import inversion_pb2_grpc
from tests.rpc.model import save_tiny_model
from tests.rpc.repository import Shelf, Versions, serving
from tests.rpc.running import Running, wait_until
from tests.rpc.wire import RESOLUTION

MAX_SESSIONS = 3
QUEUE_SIZE = 6


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def engine_config(model_folder: Path) -> EngineConfig:
    return EngineConfig(
        model=str(model_folder),
        max_sessions=MAX_SESSIONS,
        queue_size=QUEUE_SIZE,
        batch_buckets=(1, 2),
        max_steps=4,
        window_share=0.0,  # what it finds depends on the time
    )


@pytest.fixture(scope="session")
def engine(engine_config: EngineConfig) -> Iterator[Engine]:
    engine = build_engine(engine_config)
    engine.start()
    yield engine
    engine.stop(1.0)


@pytest.fixture(scope="session")
def serve(engine: Engine, engine_config: EngineConfig) -> Callable[..., AbstractContextManager[Running]]:
    """Starts a server around the engine; keywords change its [server] settings."""

    @contextlib.contextmanager
    def start(own_engine: Engine | None = None, **settings: Any) -> Iterator[Running]:
        limits = ServerConfig(**{"port": 0, "metrics_port": 0, "drain_seconds": 0.2, **settings})
        config = Config(limits, replace(engine_config, max_sessions=(own_engine or engine).capacity))
        metrics = Metrics(version="test")
        with (
            serve_in_thread(config, metrics, own_engine or engine) as server,
            grpc.insecure_channel(server.address) as c,
        ):
            yield Running(server, metrics, c, inversion_pb2_grpc.InversionServiceStub(c))

    return start


@pytest.fixture(scope="session")
def running(serve: Callable[..., AbstractContextManager[Running]]) -> Iterator[Running]:
    """The server that most tests share. Every test leaves it without sessions."""
    with serve() as shared:
        yield shared


@pytest.fixture(autouse=True)
def leave_no_session(request: pytest.FixtureRequest) -> Iterator[None]:
    """Frees what a test left behind, so that the next one finds all places free."""
    yield
    if "running" in request.fixturenames:
        free_all(request.getfixturevalue("running"))


def free_all(running: Running) -> None:
    """Waits for the streams to end and frees their sessions, as their resume time would."""
    store = running.server._store
    assert store is not None
    wait_until(lambda: not store.streams)
    store.close_all("closed")


@pytest.fixture
def hold(engine: Engine) -> Callable[[], AbstractContextManager[None]]:
    """`with hold():` keeps the engine's thread busy, so that what is sent meanwhile waits."""

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        busy, go_on = threading.Event(), threading.Event()

        def keep(result: object) -> None:
            busy.set()
            go_on.wait(60.0)

        engine.submit(FrameJob(-1, 0, Frame(np.zeros((RESOLUTION, RESOLUTION, 3), np.uint8))), keep)
        assert busy.wait(60.0)
        try:
            yield
        finally:
            go_on.set()

    return held


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.fixture
def shelf(saved_models: Path, tmp_path: Path) -> Shelf:
    """A folder of models, with room for "face"."""
    (tmp_path / "models" / "face").mkdir(parents=True)
    return Shelf(saved_models, tmp_path / "models")


@pytest.fixture
def face(shelf: Shelf) -> Iterator[Versions]:
    """A server of face@1."""
    shelf.put("face/1")
    with serving(shelf.folder) as running:
        yield running
