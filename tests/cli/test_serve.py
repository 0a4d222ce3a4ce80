"""`legato serve` as a process: how it starts, says where it is, refuses to start, and stops."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from legato import cli
from legato_pb import inversion_pb2 as pb
from legato_pb import inversion_pb2_grpc
from tests.rpc.model import save_tiny_model

LISTENING = re.compile(r"legato listening on (127\.0\.0\.1:\d+) metrics on (127\.0\.0\.1:\d+)\n")
TIMEOUT_SECONDS = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def command(model: Path | str, *options: str) -> tuple[str, ...]:
    small = ("--port", "0", "--metrics-port", "0", "--max-sessions", "1", "--batch-buckets", "1", "--threads", "1")
    return (sys.executable, "-m", "legato", "serve", "--model", str(model), *small, *options)


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that is killed at the latest when the test ends."""
    running = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with running:
            yield running
            running.kill()
    finally:
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_stops_in_good_order(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready.json"
    with process(*command(model, "--ready-file", str(ready), "--drain-seconds", "5")) as server:
        assert server.stdout is not None
        listening = LISTENING.fullmatch(server.stdout.readline())
        assert listening is not None
        address, metrics = listening.groups()
        told = json.loads(ready.read_text())
        assert told == {"address": address, "metrics": metrics, "pid": server.pid}
        with grpc.insecure_channel(address) as channel:
            stub = inversion_pb2_grpc.InversionServiceStub(channel)
            assert stub.ListModels(pb.ListModelsRequest()).models[0].name == "tiny"
        server.send_signal(number)
        rest, log = server.communicate(timeout=TIMEOUT_SECONDS)
    assert server.returncode == 0, log
    assert rest == ""
    assert not ready.exists()
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"ops", "listening", "draining", "stopped"} <= {line["message"] for line in lines}
    ops = next(line for line in lines if line["message"] == "ops")
    assert (ops["modulated_conv2d"], ops["upsample2d"]) == ("cpu", "torch")
    assert ops["cuda_half"].startswith(("built for ", "not built: "))
    assert next(line for line in lines if line["message"] == "listening")["address"] == address
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)


def test_what_keeps_it_from_starting_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"legato serve: no model file at {tmp_path}/generator.safetensors")
    assert len(done.stderr.splitlines()) == 1


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Iterator[Refused]:
    """The line with which `legato serve` refuses to start, in this process."""

    def run(*arguments: str) -> str:  # python -m legato serve ...
        assert cli.main(arguments[3:]) == 1
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert (out, line.startswith("legato serve: ")) == ("", True)
        return str(line)

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_taken_port_is_refused(refused: Refused, model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port} of 127.0.0.1 is taken" in refused(*command(model, "--port", port))
        assert f"metrics port {port} of 127.0.0.1 is taken" in refused(*command(model, "--metrics-port", port))


def test_an_unknown_model_is_refused(refused: Refused) -> None:
    assert "no model is named 'nobody'" in refused(*command("nobody"))


def test_damaged_weights_are_refused(refused: Refused, tmp_path: Path) -> None:
    broken = save_tiny_model(tmp_path / "broken")
    file = broken / "encoder.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    assert str(file) in refused(*command(broken))
    file.write_bytes(data[: len(data) // 2])
    assert str(file) in refused(*command(broken))


def test_directions_of_another_generator_are_refused(refused: Refused, model: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", seed=1)
    (other / "directions.safetensors").write_bytes((model / "directions.safetensors").read_bytes())
    assert "directions.safetensors was fitted on the generator" in refused(*command(other))


def test_a_wrong_setting_is_refused(refused: Refused, model: Path, tmp_path: Path) -> None:
    assert "server.credits is an integer" in refused(*command(model, "--credits", "none"))
    file = tmp_path / "legato.toml"
    file.write_text("[server]\nprot = 1\n")
    assert "unknown key 'server.prot'" in refused(*command(model, "--config", str(file)))
    ready = tmp_path / "nowhere" / "ready"
    assert f"the ready file {ready} cannot be written" in refused(
        *command(model, "--ready-file", str(ready), "--log-level", "error")
    )
