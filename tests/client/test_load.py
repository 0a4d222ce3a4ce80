"""The load: every frame has a fate, ages count from when a frame was due, and the command tells it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from legato_client import Client, Edit, Failed, FrameResult
from legato_client.cli import main
from legato_client.load import Camera, Load, put, walk
from legato_client.local import LocalServer

Clip = list[NDArray[np.uint8]]


def result(seq: int, psnr_db: float = 20.0) -> FrameResult:
    return FrameResult(seq, None, None, None, psnr_db, 2, seq, 0.0, 0.004, {"encode": 0.002}, 0.005)


def test_every_frame_of_a_load_is_told_of(server: LocalServer, clip: Clip) -> None:
    load = Load(sessions=3, fps=4.0, seconds=1.0, warm_seconds=0.5, steps=1, edits=(Edit("smile", 1.0),))
    found = put(server.address, clip, load)
    assert (found["sessions"], found["refused"], found["untold"]) == (3, 0, 0)
    assert found["offered"] == 12, "4 a second from each of 3, the warm half second not counted"
    missed = sum(found["dropped"].values()) + found["failed"] + found["unsent"]
    assert found["answered"] + missed == found["offered"]
    assert len(found["by_second"]) == 1
    if found["answered"]:
        assert found["age_ms"]["p50"] > 0
        assert found["stage_ms"]["synthesize"] > 0
        assert found["steps"] == 1
        assert found["fps"] == found["answered"]


def test_more_sessions_than_places_are_refused_and_told(server: LocalServer, clip: Clip) -> None:
    found = put(server.address, clip, Load(sessions=10, fps=0, seconds=0.3, warm_seconds=0.0))
    assert (found["sessions"], found["refused"], found["held"]) == (8, 2, None)
    assert found["answered"] > 0


def test_a_stall_is_paid_by_the_frames_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Due at 1.0, 1.1, ... seconds; all are answered at 1.5."""
    now = 0.0
    monkeypatch.setattr("legato_client.load.time.monotonic", lambda: now)
    camera = Camera(Load(fps=10.0, seconds=0.3, warm_seconds=1.0), [], 0, begun=0.0)
    camera._due += [0.9, 1.0, 1.1, 1.2]
    now = 1.5
    for seq in (1, 2, 3):
        camera._take(result(seq))
    camera._take(Failed(4, "INVALID_IMAGE", "no picture"))
    assert [round(one.age, 6) for one in camera.seen] == [0.5, 0.4], "the frame of 0.9 only warms up"
    assert (camera.offered, camera.failed, camera.complaint, camera.misses) == (3, 1, "no picture", [1.2])


def test_cameras_tick_one_after_the_other() -> None:
    load = Load(sessions=4, fps=25.0)
    assert [Camera(load, [], number, 0.0)._phase for number in range(4)] == [0.0, 0.01, 0.02, 0.03]


def test_the_server_draws_a_clip_that_moves(client: Client) -> None:
    frames = walk(client, 4)
    assert len({frame.tobytes() for frame in frames}) >= 3
    assert all(frame.shape == (64, 64, 3) for frame in frames)


def test_the_command(server: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["bench", "--server", server.address, "--seconds", "0.3", "--warm-seconds", "0"]
    assert main([*common, "--sessions", "2", "--fps", "0", "--edit", "smile=1"]) == 0
    assert "2 sessions, as fast as answers come" in capsys.readouterr().out
    assert main([*common, "--fps", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["offered"] == 3
    assert main(["bench", "--server", "127.0.0.1:1", "--seconds", "0.1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
    for wrong in (["--sessions", "0"], ["--fps", "-1"], ["--seconds", "nan"]):
        with pytest.raises(SystemExit):
            main([*common, *wrong])
