"""A server that runs, as tests see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from legato.metrics import Metrics
from legato.rpc.server import Server
from legato_pb import inversion_pb2_grpc
from tests.rpc.wire import Wire


@dataclass
class Running:
    """A server that runs, and a channel to it."""

    server: Server
    metrics: Metrics
    channel: grpc.Channel
    stub: inversion_pb2_grpc.InversionServiceStub

    def wire(self) -> Wire:
        """A new stream."""
        return Wire(self.stub)

    def value(self, name: str, **labels: str) -> float:
        """A metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Returns when the condition holds; fails when it does not come to."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
