"""Clients that vanish and servers that die or cannot start: who notices, and what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from legato.cli import main as legato
from legato_client import (
    Answer,
    AsyncClient,
    Client,
    ConnectionLost,
    DeadlineMissed,
    FrameResult,
    LegatoError,
    NotFound,
    Overloaded,
    ServerStopping,
    ServerUnreachable,
    Unavailable,
)
from legato_client.local import LocalServer, local_server
from tests.client.servers import WAIT_SECONDS, open_soon

Clip = list[NDArray[np.uint8]]

VANISH = """
import os, sys
import numpy as np
from legato_client import Client
client = Client(sys.argv[1])
session = client.open()
frames = (np.zeros((64, 64, 3), np.uint8) for _ in range(10_000))
print(session.resume_token, flush=True)
for answer in session.stream(frames):
    pass
"""


def endless(clip: Clip) -> Iterator[NDArray[np.uint8]]:
    while True:
        yield from clip


def test_a_client_killed_amid_its_frames_leaves_the_others_alone(
    server: LocalServer, client: Client, clip: Clip
) -> None:
    with client.open() as neighbor:
        victim = subprocess.Popen([sys.executable, "-c", VANISH, server.address], stdout=subprocess.PIPE, text=True)
        assert victim.stdout is not None
        token = victim.stdout.readline().strip()
        answers: list[Answer] = list(neighbor.stream(clip))
        victim.kill()
        victim.wait(WAIT_SECONDS)
        victim.stdout.close()
        answers += neighbor.stream(clip)
        assert all(isinstance(answer, FrameResult) for answer in answers)
        deadline = time.monotonic() + WAIT_SECONDS
        while streams(client, token) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not streams(client, token)


def streams(client: Client, token: str) -> bool:
    """Whether a session has a stream; one that was kept for its second without one and then freed has none."""
    try:
        return client.get_session(token).streaming
    except NotFound:
        return False


async def test_clients_gone_while_they_open_leave_room_for_others(server: LocalServer) -> None:
    async with AsyncClient(server.address) as client:
        for wait in [0.0, 0.001, 0.003, 0.01] * 4:
            opening = asyncio.ensure_future(client.open())
            await asyncio.sleep(wait)
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Overloaded):
                await (await opening).cancel()
    with Client(server.address) as other:
        sessions = [open_soon(other) for _ in range(8)]
        for session in sessions:
            session.close()


def test_no_server_is_told_at_once_with_its_address() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with Client(address) as client:
            for call in (client.list_models, client.open):
                with pytest.raises(ServerUnreachable, match=f"no server answers at {address}: is `legato serve`"):
                    call()


def test_a_server_that_never_answers_is_given_up_after_the_time_that_was_given() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"

        async def awaited() -> None:
            async with AsyncClient(address, timeout=0.2) as client:
                with pytest.raises(DeadlineMissed, match=r"did not open the session within 0\.2 s"):
                    await client.open()
                with pytest.raises(DeadlineMissed, match="did not answer in the time that was given"):
                    await client.list_models()

        asyncio.run(awaited())
        with Client(address) as client:
            with pytest.raises(DeadlineMissed, match=r"did not open the session within 0\.2 s"):
                client.open(timeout=0.2)
            with pytest.raises(DeadlineMissed, match="did not answer in the time that was given"):
                client.list_models(timeout=0.2)


def test_a_server_that_stops_says_so_to_every_stream(model_folder: Path, clip: Clip) -> None:
    with local_server(model_folder, drain_seconds=0.3, threads=1) as server, Client(server.address) as client:
        threaded, idle = client.open(), client.open()

        async def awaited() -> LegatoError:
            async with AsyncClient(server.address) as other:
                session = await other.open()
                answering = session.stream(endless(clip))
                assert isinstance(await anext(answering), FrameResult)
                threading.Thread(target=server.process.send_signal, args=(signal.SIGTERM,)).start()
                with pytest.raises(LegatoError) as ended:
                    async for _ in answering:
                        pass
                await session.cancel()
                return ended.value

        seen: list[Answer] = []
        failures: list[LegatoError] = []

        def follow() -> None:
            try:
                seen.extend(threaded.stream(endless(clip)))
            except LegatoError as error:
                failures.append(error)

        follower = threading.Thread(target=follow)
        follower.start()
        failures.append(asyncio.run(awaited()))
        follower.join(WAIT_SECONDS)
        assert [type(failure) for failure in failures] == [ServerStopping, ServerStopping]
        assert threaded.notices[0].deadline_seconds is not None
        with pytest.raises(ServerStopping):
            idle.recv(timeout=WAIT_SECONDS)
        with pytest.raises(Unavailable):
            client.open()
        with pytest.raises(ServerStopping):
            idle.send(clip[0])
        assert server.process.wait(WAIT_SECONDS) == 0


def test_a_server_that_is_killed_is_a_lost_connection(model_folder: Path, clip: Clip) -> None:
    with local_server(model_folder, threads=1) as server, Client(server.address) as client:
        session = client.open()
        answers = session.stream(endless(clip))
        assert isinstance(next(answers), FrameResult)

        async def awaited() -> None:
            async with AsyncClient(server.address) as other:
                opened = await other.open()
                assert await opened.send(clip[0]) == 1
                assert isinstance(await opened.recv(timeout=WAIT_SECONDS), FrameResult)
                server.kill()
                with pytest.raises(ConnectionLost, match=f"the server at {server.address} went away"):
                    await opened.recv(timeout=WAIT_SECONDS)
                with pytest.raises(ConnectionLost):
                    await opened.send(clip[0])
                with pytest.raises(ConnectionLost):
                    await opened.close()

        asyncio.run(awaited())
        with pytest.raises(ConnectionLost, match="went away in the middle"):
            list(answers)
        with pytest.raises(ConnectionLost):
            session.close()


@pytest.mark.parametrize("flag", ["--port", "--metrics-port"])
def test_a_taken_port_is_an_error_that_names_it(
    model_folder: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"--port": "0", "--metrics-port": "0", flag: str(port)}
        arguments = [part for pair in ports.items() for part in pair]
        assert legato(["serve", "--model", str(model_folder), *arguments]) == 1
    message = capsys.readouterr().err
    assert str(port) in message
    assert "is taken" in message
    assert flag in message


def damage(folder: Path) -> None:
    file = folder / "generator.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 0xFF
    file.write_bytes(data)


def cut(folder: Path) -> None:
    file = folder / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def remove(folder: Path) -> None:
    (folder / "directions.safetensors").unlink()


@pytest.mark.parametrize(
    ("harm", "messages"),
    [
        (damage, ["generator.safetensors", "is damaged", "Fetch or save it again"]),
        (cut, ["encoder.safetensors", "is damaged: it ends at byte", "Fetch or save it again"]),
        (remove, ["no model file at", "directions.safetensors"]),
    ],
)
def test_weights_that_are_missing_or_damaged_keep_the_server_from_starting(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: object, messages: list[str]
) -> None:
    folder = tmp_path / "harmed"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert callable(harm)
    harm(folder)
    assert legato(["serve", "--model", str(folder), "--port", "0", "--metrics-port", "0"]) == 1
    told = capsys.readouterr().err
    for message in messages:
        assert message in told


def test_a_model_that_does_not_exist_is_refused_with_what_could_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert legato(["serve", "--model", "heads-9000", "--port", "0", "--metrics-port", "0"]) == 1
    assert "no model is named 'heads-9000'" in capsys.readouterr().err
