"""`legato bench engine` and `legato bench server`: what they count and refuse, and that a run gives every figure."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from legato import cli
from legato.answering import to_pixels
from legato.benchmarks import quality, speed, window
from legato.benchmarks.held_out import HeldOut, change_error
from legato.benchmarks.server import Options, knee, summarize, sweep
from legato.commands.serve import build_engine
from legato.config import EngineConfig
from legato.errors import ConfigError
from legato.pipeline import Pipeline
from legato.types import Frame
from tests.pipeline.model import SIDE, small_model, stream
from tests.rpc.model import save_tiny_model
from tests.tolerances import REPORTED

TINY = ["--threads", "1", "--clips", "1", "--frames", "3", "--every", "2", "--seconds", "0.3", "--rounds", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def bench(*arguments: str) -> int:
    threads = torch.get_num_threads()
    try:
        return cli.main(["bench", *arguments])
    finally:
        torch.set_num_threads(threads)


def clip_of(frames: list[Frame]) -> HeldOut:
    pixels = np.stack([frame.pixels for frame in frames]).transpose(0, 3, 1, 2)
    return HeldOut(torch.tensor(pixels).float() / 127.5 - 1, frames)


@pytest.mark.slow
def test_a_run_gives_every_figure(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, picture = tmp_path / "new" / "engine.json", tmp_path / "engine.png"
    drawn = ["--picture", str(picture)] if importlib.util.find_spec("matplotlib") else []
    sections = ["--only", "stream", "speed", "quality", "overload"]
    arguments = ["--model", str(model), "--cache", str(tmp_path), "--json", str(target), *drawn, *sections]
    assert bench("engine", *TINY, *arguments) == 0
    result = json.loads(target.read_text(encoding="utf-8"))
    summary = result["summary"]
    for key in ("fps_steps0", "fps_steps1", "overhead_ratio", "batching_ratio"):
        assert summary[key] > 0, key
    passes = [point["passes"] for point in summary["psnr_by_passes"]]
    assert passes == sorted(set(passes)), "every step costs some"
    assert passes[0] == 1
    assert summary["gap_to_free_w_plus_db"] is not None
    assert summary["window_gain_db"] is None, "it was not asked for"
    assert summary["overload_untold"] == 0
    assert result["stamp"].keys() >= {"commit", "machine", "versions"}
    assert str(tmp_path) not in target.read_text(encoding="utf-8"), "results name no machine's folders"
    assert result["speed"]["fps"].keys() == {
        f"{who}/{shape}" for who in ("served", "engine", "bare", "bare+jpeg") for shape in ("1/0", "1/1", "8/0")
    }
    assert "served / bare" in capsys.readouterr().out
    if drawn:
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_sweep_of_a_server(model: Path, tmp_path: Path) -> None:
    target, picture = tmp_path / "server.json", tmp_path / "server.png"
    drawn = ["--picture", str(picture)] if importlib.util.find_spec("matplotlib") else []
    load = ["--steps", "0", "--fps", "2", "--seconds", "1", "--most", "2", "--threads", "1"]
    assert bench("server", "--model", str(model), *load, "--json", str(target), *drawn) == 0
    result = json.loads(target.read_text(encoding="utf-8"))
    points = result["curves"]["0"]["points"]
    assert points[0]["sessions"] == 1
    for point in points:
        assert point["offered"] == 2 * point["sessions"], "2 frames/s for a second"
        assert point["untold"] == 0
        assert point["batches"]["synthesize"] >= 1
    assert result["summary"]["0"]["sessions_held"] in (0, 1, 2)
    if drawn:
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engine", "--picture", "engine.jpeg"], ".png"),
        (["engine", "--json", "/proc/version/engine.json"], "cannot be written"),
        (["engine", "--window-seconds", "5"], "after 5 seconds"),
        (["engine", "--model", "no-such-model"], "no-such-model"),
        (["server", "--metrics", "127.0.0.1:9"], "--address"),
        (["server", "--model", "no-such-model"], "no-such-model"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench(*arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["engine", "--only", "ops"], ["engine", "--clips", "0"], ["server", "--steps", "-1"]]
)
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench(*arguments)
    assert ended.value.code == 2


def test_passes_are_counted_where_they_happen() -> None:
    generator = small_model().generator.eval().requires_grad_(False)
    code = generator.w_avg.expand(2, generator.num_layers, -1).clone()
    with quality.Passes(generator).counted() as passes:
        with torch.no_grad():
            generator(code)
        assert (passes.forward, passes.backward) == (2, 0)
        generator(code.requires_grad_()).sum().backward()
        assert (passes.forward, passes.backward, passes.total) == (4, 2, 6)
    generator(code)
    assert passes.total == 6, "nothing is counted afterwards"


def test_quality_of_streams_that_the_generator_can_make() -> None:
    model = small_model()
    pipeline = Pipeline(model.generator, model.encoder, model.directions, slots=4)
    clips = [clip_of(stream(model, 4, seed)) for seed in range(5)]
    told: list[str] = []
    options = quality.QualityOptions(steps=(0, 1, 3), free_steps=5, every=2)
    stops = iter([False])
    found = quality.measure(pipeline, clips, options, lambda what, *_: told.append(what), in_time=lambda: next(stops))
    assert (found["clips"], found["frames"], found["clips_left_out_for_time"]) == (4, 16, 1)
    passes = [found["stream"][k]["passes"] for k in ("0", "1", "3")]
    assert passes[0] == 1 < passes[1] < passes[2]
    assert found["stream"]["0"] == found["independent"]["0"], "without steps there is nothing to carry"
    assert found["stream"]["0"]["psnr_db"] == found["encoder"]["psnr_db"]
    assert found["free_w_plus"]["passes"] == 10
    assert found["free_w_plus"]["change_error"] is None, "every second frame has no neighbor"
    assert found["near"]["passes"] <= quality.NEAR_PASSES
    assert "encoder and free W+" in told


def test_the_error_of_the_change_is_that_of_motion_alone() -> None:
    frames = [Frame(np.full((4, 4, 3), 100 + 10 * t, np.uint8)) for t in range(3)]
    clip = clip_of(frames)
    exact = list(to_pixels(clip.images))
    assert change_error(exact, clip) == 0.0
    assert change_error([pixels + 20 for pixels in exact], clip) == 0.0, "a constant offset does not move"
    still = [exact[0]] * 3
    assert change_error(still, clip) == pytest.approx(10 / 127.5)


def test_ratios_are_of_the_same_batch_and_steps() -> None:
    fps = {"served/1/0": 60.0, "bare/1/0": 80.0, "bare+jpeg/1/0": 75.0, "engine/1/0": 70.0}
    fps |= {"served/8/0": 90.0, "bare/8/0": 100.0, "bare+jpeg/8/0": 90.0, "engine/8/0": 105.0}
    found = speed.ratios(fps)
    assert found["overhead"] == {"1/0": 0.75, "8/0": 0.9}
    assert found["overhead_with_jpeg"] == {"1/0": 0.8, "8/0": 1.0}
    assert found["batching"] == {"engine": 1.5, "served": 1.5, "bare": 1.25}


def point(sessions: int, held: int) -> dict[str, Any]:
    figures: dict[str, Any] = dict.fromkeys(("steps", "psnr_db", "age_ms", "batches", "load_cpus"))
    return {**figures, "sessions": sessions, "held": held, "refused": 0, "fps": 25.0 * held, "untold": 0}


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 7, 20, 40, 64, 100])
def test_the_sweep_finds_the_knee(capacity: int) -> None:
    asked: list[int] = []

    def measure(sessions: int) -> dict[str, Any]:
        asked.append(sessions)
        return point(sessions, sessions if sessions <= capacity else 0)

    points = sweep(measure, Options(most=64))
    assert len(set(asked)) == len(asked), "no point twice"
    held = knee(points)
    most = min(capacity, 64)
    assert most - max(1, most // 8) <= held <= most
    assert summarize({"0": {"held": held, "points": points}})["0"]["sessions_held"] == held


def test_a_sweep_needs_something_to_sweep() -> None:
    with pytest.raises(ConfigError, match="a sweep has"):
        Options(fps=0.0)


def test_streams_are_watched_in_real_time(model: Path) -> None:
    frames = [Frame(np.full((SIDE, SIDE, 3), 40 * t, np.uint8)) for t in range(3)]
    settings = EngineConfig(model=str(model), batch_buckets=(1,), threads=1, max_steps=1)
    options = window.WindowOptions(fps=3.0, after=0.3)
    found = window.measure(build_engine, settings, [clip_of(frames)], options, lambda *_: None)
    assert found["clips"] == 1
    assert {"encoder_off", "encoder_on"} <= found["streams"].keys()
    for watched in found["streams"].values():
        assert len(watched["psnr_db_by_second"]) == 1
        assert watched["age_p95_ms"] > 0
        assert watched["still_regions_change_levels"] == {"mean": 0.0, "most": 0.0}, "no pixel of these frames stays"
    late = [found["streams"][name]["late_psnr_db"] for name in ("encoder_on", "encoder_off")]
    assert found["gain_db"] == pytest.approx(late[0] - late[1], abs=2 * REPORTED)  # each figure is rounded
