"""One tiny model and one server of it for all of the client's tests; others are started where one must die."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from legato_client import Client
from legato_client.local import LocalServer, local_server
from tests.rpc.model import save_tiny_model
from tests.rpc.wire import RESOLUTION


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def server(model_folder: Path) -> Iterator[LocalServer]:
    """Small limits, so that what is too large is small; sessions without a stream are let go soon."""
    limits = {"max_message_bytes": 200_000, "max_sessions": 8, "resume_seconds": 1.0, "threads": 1, "window_share": 0}
    with local_server(model_folder, **limits) as running:
        yield running


@pytest.fixture
def client(server: LocalServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture(scope="session")
def clip() -> list[NDArray[np.uint8]]:
    """Twelve frames, uint8 [64, 64, 3]: a bright square that wanders over a gradient."""
    frames = []
    for step in range(12):
        y, x = np.mgrid[:RESOLUTION, :RESOLUTION]
        frame = np.stack([x * 3, y * 3, np.full_like(x, 80)], axis=2).astype(np.uint8)
        frame[20 + step : 36 + step, 8 + 3 * step : 24 + 3 * step] = 240
        frames.append(frame)
    return frames
