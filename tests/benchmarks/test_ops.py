"""`legato bench ops`: what it writes, what it refuses, and that nothing that stands beside ours can end a run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from legato import cli
from legato.benchmarks import ops
from legato.benchmarks.compiling import Compiler
from legato.benchmarks.peers import FOLDERS, Peers
from legato.benchmarks.rounds import Contest, Pace

TINY = ["--batches", "1", "--seconds", "0.01", "--threads", "1", "--no-compile", "--nets", "heads-128"]


def bench(*arguments: str) -> int:
    threads = torch.get_num_threads()
    try:
        return cli.main(["bench", "ops", *arguments])
    finally:
        torch.set_num_threads(threads)


def test_a_quick_run_writes_results_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, picture = tmp_path / "new" / "ops.json", tmp_path / "ops.png"
    drawn = ["--picture", str(picture)] if importlib.util.find_spec("matplotlib") else []
    layers = ["--layers", "heads-128 b8.*", "256 px"]
    assert bench("--quick", *TINY, *layers, "--json", str(results), *drawn) == 0
    result = json.loads(results.read_text(encoding="utf-8"))
    summary = result["summary"]
    for mode in ("", "_forward_backward"):
        assert summary["modulated_conv2d"][f"vs_eager{mode}"] > 0
        assert summary["modulated_conv2d"][f"vs_grouped{mode}"] > 0
        assert summary["modulated_conv2d"][f"vs_compile{mode}"] is None, "--no-compile"
        assert summary["flow_warp"][f"vs_grid_sample{mode}"] > 0
        assert summary["to_rgb"][f"vs_eager{mode}"] > 0
    entered = result["entered"]["modulated_conv2d"]["vs_eager"]
    assert entered["layers"] == ["heads-128 b8.conv0", "heads-128 b8.conv1"]
    assert (entered["batches"], entered["dtypes"]) == ([1], ["float32", "bfloat16"])
    assert result["stamp"].keys() >= {"commit", "machine", "versions"}
    assert result["setting"]["threads"] == 1
    printed = capsys.readouterr().out
    assert "heads-128 b8.conv0" in printed
    assert "how many times faster ours is" in printed
    if drawn:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_every_formulation_agrees_with_ours(tmp_path: Path) -> None:
    """A contender that computes something else is left out with its distance as the reason."""
    target = tmp_path / "ops.json"
    layers = ["--layers", "*b4.*", "*b8.*", "256 px", "--batches", "1", "2", "--dtypes", "float32"]
    assert bench(*TINY, *layers, "--only", "modulated_conv2d", "to_rgb", "flow_warp", "photometric_error",
                 "--json", str(target)) == 0  # fmt: skip
    cases = json.loads(target.read_text(encoding="utf-8"))["cases"]
    assert {case["mode"] for case in cases} == {"forward", "forward_backward"}
    for case in cases:
        differ = {name: why for name, why in case["not_run"].items() if "differs" in why}
        assert not differ, f"{case['op']} {case['name']} {case['dtype']} {case['mode']}"
        assert case["rounds"] >= 1
        assert len(case["median_ms"]) >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "nothing*"], "no case passes"),
        (["--device", "tpu"], "cpu or cuda"),
        (["--peers", "/nowhere/at/all"], "no such folder"),
        (["--picture", "ops.jpeg"], ".png"),
        (["--json", "/proc/version/ops.json"], "cannot be written"),
    ],
)
def test_what_cannot_be_is_refused_before_measuring(
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
    "arguments", [["--batches", "0"], ["--dtypes", "int8"], ["--only", "conv"], ["--seconds", "-1"]]
)
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench(*arguments)
    assert ended.value.code == 2


def test_absent_and_broken_peers_are_told(tmp_path: Path) -> None:
    broken = tmp_path / FOLDERS["nvlabs"] / "training"
    broken.mkdir(parents=True)
    (broken / "__init__.py").touch()
    (broken / "networks.py").write_text("raise ImportError('no such thing as dnnlib')", encoding="utf-8")
    target = tmp_path / "ops.json"
    layers = ["--layers", "*b4.conv1", "--only", "modulated_conv2d", "--dtypes", "float32"]
    assert bench(*TINY, *layers, "--peers", str(tmp_path), "--json", str(target)) == 0
    result = json.loads(target.read_text(encoding="utf-8"))
    assert result["peers"]["nvlabs"]["status"] == "its import fails: ImportError: no such thing as dnnlib"
    assert "no folder" in result["peers"]["rosinality"]["status"]
    for case in result["cases"]:
        assert "dnnlib" in case["not_run"]["nvlabs/float32"]
        assert "ours" in case["median_ms"]
    assert Peers(None, torch.device("cpu")).report()["resample2d"]["status"] == "no folder of peers"


def test_without_a_compiler_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object, **options: object) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", none)
    assert "no C++ compiler" in Compiler(torch.device("cpu")).unavailable
    options = ops.Options(ops=("to_rgb",), nets=("heads-128",), layers=("*b4.torgb",), batches=(1,), seconds=0.01)
    case = ops.run(options, lambda *_: None)["cases"][0]
    assert "no C++ compiler" in case["not_run"]["compile/reference"]
    assert "eager/reference" in case["median_ms"]


def test_cases_that_need_more_memory_or_time_than_there_is_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ops.Options(ops=("modulated_conv2d",), nets=("config-f-1024",), layers=("*b1024.conv1",), batches=(32,))
    monkeypatch.setattr(ops, "_free_memory", lambda device: 1e9)
    for case in ops.run(options, lambda *_: None)["cases"]:
        assert "GiB" in case["not_run"]["ours"]
    late = ops.Options(ops=options.ops, nets=options.nets, layers=options.layers, batches=(1,), minutes=1e-6)
    for case in ops.run(late, lambda *_: None)["cases"]:
        assert case["not_run"]["ours"] == "skipped: no time left"


class Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    synchronize = record

    def elapsed_time(self, other: Event) -> float:
        return 3.0  # ms


class Device:
    """Stands for streams, graphs and their contexts, and counts."""

    captured = replayed = 0

    def __init__(self, *arguments: object) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *arguments: object) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass

    def replay(self) -> None:
        Device.replayed += 1


class Capture(Device):
    def __enter__(self) -> None:
        Device.captured += 1


def test_on_cuda_replays_of_a_graph_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that needs a device, with counters in its place."""
    for name in ("Stream", "stream", "CUDAGraph", "current_stream", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, Device)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    calls = []

    def call() -> tuple[torch.Tensor]:
        calls.append(1)
        return (torch.ones(1),)

    contest = Contest(torch.device("cuda"), 0.0, grad=False)
    assert contest.admit("ours", [call, call])
    before = len(calls)
    race = contest.run(Pace(10.0, 4, 4))
    assert (Device.captured, race.rounds) == (1, 4)
    assert Device.replayed > 4
    assert len(calls) == before, "what was captured is replayed, not called again"
    assert race.median["ours"] == pytest.approx(0.0015), "3 ms for one pass over two sets of buffers"
