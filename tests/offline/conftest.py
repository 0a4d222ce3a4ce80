"""A tiny model of random weights, in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rpc.model import save_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 px, L = 10, D = 16, with the directions smile and yaw."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
