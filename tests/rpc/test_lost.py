"""A server whose device fails: health, the streams and the process tell so, in this order, and it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from legato_pb import inversion_pb2_grpc
from tests.rpc.model import save_tiny_model
from tests.rpc.wire import Wire, refusal

TIMEOUT_SECONDS = 120

# `legato serve`, whose device fails in the second frame of a session and answers nothing from then on.
FAILING = """
import sys
import torch
from legato import cli
from legato.devices import Device
from legato.pipeline import Pipeline

begin = Pipeline.begin

def failing(self, jobs):
    if any(job.seq == 2 for job in jobs):
        Device.usable = lambda self: False
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    return begin(self, jobs)

Pipeline.begin = failing
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_lost_device_ends_the_server(tmp_path: Path) -> None:
    model, ready = save_tiny_model(tmp_path / "tiny"), tmp_path / "ready.json"
    small = ("--port", "0", "--metrics-port", "-1", "--max-sessions", "1", "--batch-buckets", "1", "--threads", "1")
    command = (sys.executable, "-c", FAILING, "serve", "--model", str(model), "--ready-file", str(ready), *small)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().startswith("legato listening on ")
            with grpc.insecure_channel(json.loads(ready.read_text())["address"]) as channel:
                health: Any = health_pb2_grpc.HealthStub(channel)
                watch = health.Watch(health_pb2.HealthCheckRequest())
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
                with Wire(inversion_pb2_grpc.InversionServiceStub(channel)) as wire:
                    wire.open().frame(1)
                    assert wire.result().seq == 1
                    wire.frame(2)
                    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
                    told = [wire.next() for _ in range(2)]
                    ended = refusal(wire.next)
                    assert (ended.code, ended.reason) == ("UNAVAILABLE", "DEVICE_LOST")
            rest, errors = server.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            server.kill()
    assert server.returncode == 1, errors
    assert rest == ""
    assert not ready.exists()
    by_kind = {message.WhichOneof("message"): message for message in told}
    assert by_kind["go_away"].go_away.reason == "DEVICE_LOST"
    assert by_kind["dropped"].dropped.seq == 2
    *lines, last = errors.splitlines()
    critical = [line for line in map(json.loads, lines) if line["level"] == "critical"]
    assert len(critical) == 1
    assert "has failed" in critical[0]["message"]
    assert last == f"legato serve: {critical[0]['message'].removeprefix('the engine ends: ')}"
