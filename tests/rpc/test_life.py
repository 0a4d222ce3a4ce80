"""A server's life: readiness, drain, what is told to streams that must go, ports that are taken."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from legato.commands.serve import build_engine
from legato.config import EngineConfig
from legato.errors import ConfigError
from legato.rpc.server import SERVICE
from legato_pb import inversion_pb2 as pb
from legato_pb.inversion_pb2_grpc import InversionServiceStub
from tests.rpc.conftest import MAX_SESSIONS
from tests.rpc.running import Running, wait_until
from tests.rpc.wire import kinds, refusal

Serve = Callable[..., AbstractContextManager[Running]]
Hold = Callable[[], AbstractContextManager[None]]


def health(running: Running, service: str = "") -> str:
    """SERVING, NOT_SERVING, or the status with which the call failed."""
    stub: Any = health_pb2_grpc.HealthStub(running.channel)
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    except grpc.RpcError as error:
        return str(error.code().name)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


class Stopping:
    """A server whose stop was asked for on another thread, so that the test can watch it drain."""

    def __init__(self, serve: Serve, **settings: object) -> None:
        self._context = serve(**settings)
        inner = self._context.__enter__()
        channel = grpc.insecure_channel(inner.server.address)  # outlives the server
        self.running = Running(inner.server, inner.metrics, channel, InversionServiceStub(channel))
        self._thread = threading.Thread(target=self._context.__exit__, args=(None, None, None))

    def begin(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server did not stop"
        self.running.channel.close()


def test_health_is_serving_while_the_engine_beats(running: Running) -> None:
    assert health(running) == health(running, SERVICE) == "SERVING"
    assert health(running, "other") == "NOT_FOUND"


def test_health_follows_the_engine_and_not_the_process(serve: Serve, engine_config: EngineConfig) -> None:
    own = build_engine(engine_config)
    own.start()
    with serve(own, heartbeat_seconds=0.6) as running:
        assert health(running) == "SERVING"
        own.stop(0.0)
        wait_until(lambda: health(running) == "NOT_SERVING")
        refused = refusal(running.stub.Synthesize, pb.SynthesizeRequest(seed=1))
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")


def test_a_stop_lets_streams_finish(serve: Serve) -> None:
    server = Stopping(serve, drain_seconds=30.0)
    running = server.running
    with running.wire().open() as wire:
        wire.frame(1)
        wire.result()
        server.begin()
        going = wire.next().go_away
        assert (going.reason, going.deadline_seconds) == ("SHUTDOWN", 30.0)
        assert health(running) == "NOT_SERVING"
        refused = refusal(running.wire().open)
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
        wire.frame(2)
        assert wire.result().seq == 2
        wire.send(close=pb.Close())
        assert kinds(wire.rest()) == ["closed"]
    server.join()
    assert running.value("legato_sessions_total", outcome="closed") == 1


def test_a_stream_that_does_not_go_is_told_of_every_frame_and_ended(serve: Serve, hold: Hold) -> None:
    server = Stopping(serve, drain_seconds=0.3)
    running = server.running
    with running.wire().open() as wire:
        with hold():
            for seq in (1, 2, 3):
                wire.frame(seq)
            server.begin()
            assert wire.next().HasField("go_away")
            dropped = [wire.next().dropped for _ in range(3)]
        assert [(drop.seq, drop.reason) for drop in dropped] == [(s, pb.DROP_REASON_SHUTDOWN) for s in (1, 2, 3)]
        refused = refusal(wire.next)
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
        assert "open the session on another one" in refused.message
    server.join()
    assert running.value("legato_sessions_total", outcome="shutdown") == 1


def test_a_client_that_reads_nothing_holds_nobody_up(serve: Serve) -> None:
    server = Stopping(serve, drain_seconds=0.2, credits=1024)
    running = server.running
    output = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW_RGB8)
    with running.wire().open(output=output) as deaf, running.wire().open() as other:
        for seq in range(1, 200):
            deaf.frame(seq)
        other.frame(1)
        assert other.result().seq == 1
        with running.wire().open(resume_token=deaf.opened.resume_token) as new:
            new.frame(200)
            assert new.result().seq == 200
        server.begin()
        server.join()


def test_the_metrics_page_tells_what_happened(serve: Serve) -> None:
    with serve() as running, running.wire().open() as wire:
        for seq in (1, 1, 2):
            wire.frame(seq)
        answers = [wire.next() for _ in range(3)]
        assert sorted(kinds(answers)) == ["failed 1", "result 1", "result 2"]
        url = f"http://{running.server.metrics_address}/metrics"
        with urllib.request.urlopen(url, timeout=10) as page:
            text = page.read().decode()
    assert "legato_sessions_active 1.0" in text
    assert "legato_frames_received_total 3.0" in text
    assert "legato_frames_completed_total 2.0" in text
    assert "legato_frames_failed_total 1.0" in text
    assert "legato_frame_age_seconds_count 2.0" in text
    assert 'legato_frame_stage_duration_seconds_count{stage="decode"} 2.0' in text


def test_a_taken_port_is_an_error_that_says_what_to_do(serve: Serve, running: Running) -> None:
    taken = int(running.server.address.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"port {taken} of 127.0.0.1 is taken; .* --port"), serve(port=taken):
        pass
    with socket.socket() as metrics:
        metrics.bind(("127.0.0.1", 0))
        metrics.listen()
        port = metrics.getsockname()[1]
        with pytest.raises(ConfigError, match=f"metrics port {port} .* is taken"), serve(metrics_port=port):
            pass
    with pytest.raises(ConfigError, match=r"host\.invalid cannot be used"), serve(host="host.invalid"):
        pass


def test_a_socket_file_serves_as_well(serve: Serve, tmp_path: Path) -> None:
    with serve(host=f"unix:{tmp_path}/legato.sock", metrics_port=-1) as running:
        assert running.server.address == f"unix:{tmp_path}/legato.sock"
        assert running.server.metrics_address == ""
        with running.wire().open() as wire:
            wire.frame(1)
            assert wire.result().seq == 1


def test_loopback_of_the_other_family_serves_as_well(serve: Serve) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with serve(host="::1") as running:
        assert running.server.address.startswith("[::1]:")
        assert health(running) == "SERVING"


def test_clients_that_come_and_vanish_use_nothing_up(serve: Serve) -> None:
    with serve(resume_seconds=0.0) as running:
        for _ in range(40):
            with running.wire() as wire:
                wire.send(open=pb.Open())
                wire.frame(1)
        wait_until(lambda: running.value("legato_sessions_active") == 0)
        opened = [running.wire().open() for _ in range(MAX_SESSIONS)]
        for wire in opened:
            wire.frame(1)
            assert wire.result().state_version == 1
            wire.call.cancel()
