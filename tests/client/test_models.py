"""Models with versions, as the SDK and the command see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from legato_client import AsyncClient, Client, FrameResult, ModelRef, NotAllowed, NotFound, ProtocolViolation
from legato_client.cli import main
from legato_client.local import LocalServer, local_server
from tests.rpc.model import save_tiny_model
from tests.rpc.wire import RESOLUTION


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "face" / "1", seed=0)
    save_tiny_model(folder / "face" / "2", seed=1)
    (folder / "car" / "1").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def versions(folder: Path) -> Iterator[LocalServer]:
    """face@2, beside which face@1 can be loaded, and a car that cannot be."""
    small = {"max_sessions": 2, "batch_buckets": "1", "threads": 1}
    with local_server("face", models=folder, allow_model_control="true", **small) as running:  # type: ignore[arg-type]
        yield running


def labels(client: Client, **options: bool) -> dict[str, str]:
    return {version.label: version.state for version in client.list_versions(**options)}


def test_versions_come_and_go_and_sessions_keep_theirs(versions: LocalServer, clip: list[bytes]) -> None:
    with Client(versions.address) as client:
        assert labels(client) == {"face@2": "ready", "car@1": "failed"}
        assert labels(client, unloaded=True)["face@1"] == "unloaded"
        with client.open() as session:
            assert session.model.label == "face@2"
            loaded = client.load_model("face", "1")
            assert (loaded.label, loaded.current, loaded.default, loaded.reason) == ("face@1", True, True, "")
            assert labels(client)["face@2"] == "draining"
            (answer,) = session.stream(clip[:1])
            assert isinstance(answer, FrameResult)
            info = session.model
            assert answer.model == ModelRef("face", "2", info.digest, info.encoder_digest)
            assert client.get_session(session.resume_token).model_ref == answer.model
            assert client.load_model("face", "2").label == "face@2", "back, while it still drained"
        drawn = client.synthesize(seed=1, model="face@2")
        assert (drawn.model.version, drawn.model.digest) == ("2", drawn.model_digest)
        assert client.invert(clip[0]).model == drawn.model
        assert client.invert_clip(clip[:1], "encoder").model == drawn.model


def test_refusals_are_errors_of_their_kind(versions: LocalServer, server: LocalServer) -> None:
    with Client(versions.address) as client:
        with pytest.raises(ProtocolViolation, match=r"no model file at .*car/1") as broken:
            client.load_model("car")
        assert broken.value.reason == "MODEL_FILE"
        with pytest.raises(NotFound, match="no model is named 'bus'"):
            client.load_model("bus")
        with client.open(), pytest.raises(ProtocolViolation, match="drain it") as used:
            client.unload_model("face")
        assert used.value.reason == "MODEL_IN_USE"
    with Client(server.address) as client, pytest.raises(NotAllowed, match="--allow-model-control"):
        client.load_model("face")


def test_the_async_client_does_the_same(versions: LocalServer) -> None:
    async def all_of_it() -> list[str]:
        async with AsyncClient(versions.address) as client:
            loaded = await client.load_model("face", "1", beside=True)
            assert (loaded.label, loaded.current) == ("face@1", False)
            assert await client.unload_model("face", "1") == 0
            return [version.label for version in await client.list_versions()]

    assert asyncio.run(all_of_it()) == ["face@2", "car@1"]


def test_the_command_lists_loads_and_unloads(versions: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["models", *arguments, "--server", versions.address])
        return code, *capsys.readouterr()

    code, out, _ = run("load", "face@1", "--beside")
    assert (code, out.startswith(f"face@1  {RESOLUTION} px, latents 10 x 16, sha256 ")) == (0, True)
    listed = run("list", "--unloaded")[1].splitlines()
    assert [line.split(" ", 1)[0] for line in listed] == ["face@2", "face@1", "car@1"]
    assert listed[0].endswith(", ready, default")
    assert listed[1].endswith(", ready")
    assert "failed: no model file at " in listed[2]
    facts = json.loads(run("--json")[1])
    assert (facts[0]["version"], facts[0]["state"], facts[0]["resolution"]) == ("2", "ready", RESOLUTION)
    assert run("unload", "face@1") == (0, "face@1: unloaded\n", "")
    code, out, err = run("unload", "face@1")
    assert (code, out) == (1, "")
    assert err.startswith("legato-client: unknown model 'face@1'; this server has 'face@2' (ready)")
    with Client(versions.address) as client, client.open():
        assert run("unload", "face", "--drain")[1] == "face: drains, 1 sessions and calls use it\n"
    for wrong in (("load",), ("list", "face")):
        with pytest.raises(SystemExit):
            run(*wrong)
        assert "load and unload take NAME[@VERSION]" in capsys.readouterr().err
    assert run("load", "face")[0] == 0
