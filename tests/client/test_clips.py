"""A whole clip through the SDK and the command, against a real server."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from legato_client import (
    AsyncClient,
    Client,
    ClipInversion,
    ClipProgress,
    DeadlineMissed,
    InvalidImage,
    InvalidInput,
    Outputs,
    ServerUnreachable,
    invert_command,
    png,
)
from legato_client.cli import main
from legato_client.local import LocalServer
from legato_client.media import open_source
from tests.client.test_cli import run, times, video  # noqa: F401
from tests.rpc.model import DIM, LAYERS
from tests.rpc.wire import RESOLUTION

Clip = list[NDArray[np.uint8]]
Captured = pytest.CaptureFixture[str]
SHORT, ENDLESS = "consecutive:steps=2", "consecutive:steps=1000"
WAIT_SECONDS = 120.0


class Enough(Exception):
    pass


def stop(progress: ClipProgress) -> None:
    if progress.step:
        raise Enough


def codes(found: ClipInversion) -> bytes:
    assert found.latents is not None
    return found.latents.tobytes()


def canceled(server: LocalServer) -> float:
    """How many clips this server's clients have canceled."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as page:
        text = page.read().decode()
    (line,) = [x for x in text.splitlines() if x.startswith('legato_clip_inversions_total{outcome="canceled"}')]
    return float(line.split()[-1])


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path: Path, clip: Clip) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    for index, frame in enumerate(clip[:4]):
        (path / f"frame_{index}.png").write_bytes(png.write(frame))
    return path


def test_a_clip_and_its_progress(client: Client, clip: Clip) -> None:
    told: list[ClipProgress] = []
    found = client.invert_clip(clip[:4], "consecutive:steps=3", edits={"smile": 1.5}, on_progress=told.append)
    assert [frame.index for frame in found.frames] == [0, 1, 2, 3]
    assert found.latents is not None
    assert found.latents.shape == (4, LAYERS, DIM)
    assert found.latents.dtype == np.float32
    for frame in found.frames:
        assert frame.reconstruction is not None
        assert frame.edited is not None
        assert frame.reconstruction.pixels.shape == (RESOLUTION, RESOLUTION, 3)
        assert not np.array_equal(frame.edited.pixels, frame.reconstruction.pixels)
    assert found.psnr_db == pytest.approx(np.mean([frame.psnr_db for frame in found.frames]))
    assert (found.method, found.steps, found.passes_per_frame) == ("consecutive:steps=3", 3, 6.0)
    assert found.model_digest == client.list_models()[0].digest
    assert (told[-1].ahead, told[-1].step, told[-1].steps) == (0, 3, 3)


def test_outputs_are_as_asked_for(client: Client, clip: Clip) -> None:
    found = client.invert_clip(clip[:2], "encoder", outputs=Outputs(reconstruction=False, format="jpeg"))
    assert found.latents is None
    assert all(frame.reconstruction is frame.edited is None for frame in found.frames)
    assert found.psnr_db is not None


def test_paths_and_file_bytes_are_clips_too(client: Client, clip: Clip, folder: Path, video: Path) -> None:  # noqa: F811
    arrays = client.invert_clip(clip[:4], SHORT)
    for frames in (folder, str(folder), [file.read_bytes() for file in sorted(folder.iterdir())]):
        found = client.invert_clip(frames, SHORT)
        assert codes(found) == codes(arrays)
    assert len(client.invert_clip(video, "encoder").frames) == 12


def test_asyncio_gives_the_same(server: LocalServer, client: Client, clip: Clip) -> None:
    told: list[ClipProgress] = []

    async def invert() -> ClipInversion:
        async with AsyncClient(server.address) as there:
            return await there.invert_clip(clip[:3], SHORT, on_progress=told.append)

    found, known = asyncio.run(invert()), client.invert_clip(clip[:3], SHORT)
    assert codes(found) == codes(known)
    assert told[-1].step == 2


def test_what_on_progress_raises_ends_the_work_on_the_server(server: LocalServer, client: Client, clip: Clip) -> None:
    before = canceled(server)
    with pytest.raises(Enough):
        client.invert_clip(clip[:4], ENDLESS, on_progress=stop)
    wait_until(lambda: canceled(server) == before + 1)
    assert client.invert_clip(clip[:2], "encoder").frames


def test_canceling_the_task_ends_the_work_on_the_server(server: LocalServer, clip: Clip) -> None:
    before = canceled(server)

    async def give_up() -> None:
        begun = asyncio.Event()
        async with AsyncClient(server.address) as there:
            task = asyncio.create_task(
                there.invert_clip(
                    clip[:4], ENDLESS, on_progress=lambda progress: begun.set() if progress.step else None
                )
            )
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(give_up())
    wait_until(lambda: canceled(server) == before + 1)


def test_a_timeout_is_kept(client: Client, clip: Clip) -> None:
    with pytest.raises(DeadlineMissed):
        client.invert_clip(clip[:4], ENDLESS, timeout=0.5)


def test_errors_name_the_frame_or_the_method(client: Client, clip: Clip) -> None:
    with pytest.raises(InvalidImage, match="frame 1: an image is uint8") as wrong:
        client.invert_clip([clip[0], clip[1].astype(np.float32)])
    assert wrong.value.fields == ("frames[1]",)
    with pytest.raises(InvalidInput, match=r"got bytes\. For one image"):
        client.invert_clip(png.write(clip[0]))  # type: ignore[arg-type]
    with pytest.raises(InvalidImage) as damaged:
        client.invert_clip([png.write(clip[0]), png.write(clip[1])[:-20]])
    assert damaged.value.fields == ("frames[1].data",)
    with pytest.raises(InvalidInput, match="frame 1 is 48x64") as mixed:
        client.invert_clip([clip[0], clip[1][:, :48]])
    assert (mixed.value.reason, mixed.value.fields) == ("MIXED_SIZES", ("frames[1]",))
    with pytest.raises(InvalidInput, match="no method is named 'magic'") as unknown:
        client.invert_clip(clip[:2], "magic")
    assert unknown.value.fields == ("options.method",)
    with Client("127.0.0.1:1") as nobody, pytest.raises(ServerUnreachable):
        nobody.invert_clip(clip[:2])


def test_the_command_writes_as_many_frames_at_the_same_times(
    server: LocalServer,
    video: Path,  # noqa: F811
    tmp_path: Path,
    capsys: Captured,
) -> None:
    out, latents = tmp_path / "deep" / "out.mkv", tmp_path / "w.npz"
    arguments = ("invert", video, out, "--method", SHORT, "--edit", "smile=1.5", "--latents", latents, "--json")
    assert run(server, *arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["frames_in"], report["frames_out"], report["frames_replaced"]) == (12, 12, 0)
    assert (report["method"], report["steps"], report["show"]) == (SHORT, 2, "edited")
    assert [round(time * 1000) for time in times(out)] == [round(time * 1000) for time in times(video)]
    saved = np.load(latents)
    assert saved["latents"].shape == (12, LAYERS, DIM)
    assert (str(saved["method"]), str(saved["model_digest"])) == (SHORT, report["model_digest"])


def test_frames_that_a_method_gives_up_are_filled(server: LocalServer, folder: Path, tmp_path: Path) -> None:
    out, latents = tmp_path / "out", tmp_path / "w.npz"
    method = "consecutive:released,start=w_avg,steps=1,window=3"
    assert run(server, "invert", folder, out, "--method", method, "--latents", latents) == 0
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    assert sorted(files) == [f"frame_{index}.png" for index in range(4)]
    assert files["frame_1.png"] == files["frame_2.png"] == files["frame_3.png"] != files["frame_0.png"]
    assert np.load(latents)["replaced"].tolist() == [False, False, True, True]


def test_the_command_says_what_it_did(server: LocalServer, folder: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run(server, "invert", folder, tmp_path / "out", "--method", SHORT) == 0
    assert f"out: 4 frames (reconstruction), {SHORT}, reconstruction at " in capsys.readouterr().out
    image = tmp_path / "one.png"
    assert run(server, "invert", folder / "frame_0.png", image, "--method", "w_plus:steps=2") == 0
    assert "one.png: 64x64, reconstruction at " in capsys.readouterr().out
    _, picture = next(iter(open_source(tmp_path / "out", Fraction(25)).frames()))
    assert isinstance(picture, bytes)


def test_an_interrupt_ends_the_work_on_the_server_too(
    server: LocalServer, folder: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C does, at a moment at which the server is known to be at work."""

    def interrupted(bar: object, progress: ClipProgress) -> None:
        if progress.step:
            raise KeyboardInterrupt

    monkeypatch.setattr(invert_command._Bar, "show", interrupted)
    before = canceled(server)
    arguments = ["invert", str(folder), str(tmp_path / "out"), "--method", ENDLESS, "--server", server.address]
    assert main(arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    wait_until(lambda: canceled(server) == before + 1)
