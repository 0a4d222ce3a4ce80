"""One tiny model and one server of it for all of the client's tests; others are started where one must die."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from legato_client import Client
from tests.client.servers import Running, serving
from tests.rpc.model import RESOLUTION, save_tiny_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Small limits, so that what is too large is small; sessions without a stream are let go soon."""
    limits = {"max_message_bytes": 200_000, "max_sessions": 8, "resume_seconds": 1.0, "threads": 1}
    with serving(model_folder, tmp_path_factory.mktemp("server"), **limits) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
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
