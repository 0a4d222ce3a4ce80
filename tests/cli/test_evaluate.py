"""`legato evaluate`, whole, on a tiny model: the files that it writes, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from legato import cli
from legato.commands.evaluate import QUICK, SIX
from legato.inversion.method import METHODS
from tests.evaluation.small import save_judged_model

KEYS = {
    "psnr_db", "warp_error", "response", "leakage", "identity", "true_edit_cosine", "true_edit_psnr_db",
    "passes_per_frame", "seconds_per_frame",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_judged_model(tmp_path_factory.mktemp("evaluate") / "model")


class Command:
    """`legato evaluate` on the tiny model, into one folder."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.folder = folder
        self.common = ["evaluate", "--model", str(model), "--out", str(folder), "--cache", str(folder / "cache")]

    def __call__(self, *arguments: str) -> int:
        return cli.main([*self.common, *arguments])

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found


@pytest.fixture
def command(model: Path, tmp_path: Path) -> Command:
    return Command(model, tmp_path)


def test_the_six_methods_on_rendered_clips(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SIX == METHODS
    wanted = tmp_path / "deep" / "report.json"
    arguments = ["--clips", "2", "--frames", "2", "--passes", "2", "--json", str(wanted), "--attributes-edited", "yaw"]
    assert command(*arguments) == 0
    report = json.loads(wanted.read_text())
    assert report == command.report()
    assert report["summary"].keys() == set(METHODS)
    for label, figures in report["summary"].items():
        assert figures.keys() >= KEYS
        assert all(math.isfinite(figures[key]) for key in KEYS)
        assert figures["passes_per_frame"] == (1 if label == "encoder" else 2)
    assert report["stamp"].keys() >= {"commit", "versions", "time", "cpu"}
    assert report["settings"]["seed"] == 0
    assert len(report["settings"]["generator"]) == 64
    text = (tmp_path / "report.md").read_text()
    assert "NIQE is not offered" in text
    assert "LPIPS (alex) is not computed" in text or "| LPIPS |" in text
    sheet = cv2.imread(str(tmp_path / "comparison.png"))
    assert sheet is not None
    rows = 1 + 6 + 1 + 6  # input, reconstructions, true edit, edits
    assert sheet.shape[0] > rows * 128
    assert "| consecutive |" in capsys.readouterr().out


def test_a_list_of_methods_may_be_split_and_what_is_finished_is_kept(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--protocol", "synthetic", "--clips", "2", "--frames", "2"]
    specs = ["consecutive:share=static,consistency=none,steps=1", "w_plus:steps=1"]
    assert command(*common, "--methods", specs[0]) == 0
    assert command.report()["summary"].keys() == {specs[0]}
    kept = next((tmp_path / "results").glob("*/consecutive*.json"))
    before = kept.stat().st_mtime_ns
    assert command(*common, "--methods", specs[1]) == 0
    assert list(command.report()["summary"]) == [specs[1], specs[0]]
    capsys.readouterr()
    assert command(*common, "--methods", *specs) == 0
    assert f"{specs[0]}: finished before, kept" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == before
    assert command(*common, "--seed", "1", "--methods", specs[1]) == 0
    assert command.report()["summary"].keys() == {specs[1]}, "another seed is another table"
    assert command.report()["summary"][specs[1]]["latent_error"] > 0


def test_footage_whose_edits_have_no_truth(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "clips" / "one"
    clip.mkdir(parents=True)
    for index in range(3):
        cv2.imwrite(str(clip / f"{index}.png"), np.full((64, 64, 3), 60 * index, np.uint8))
    (clip / "9.png").write_bytes(b"no picture")
    assert command("--protocol", f"folder:{tmp_path / 'clips'}", "--methods", "encoder", "in_domain:steps=1") == 0
    assert "9.png is no image" in capsys.readouterr().out
    assert "9.png is no image" in (tmp_path / "report.md").read_text()
    for figures in command.report()["summary"].values():
        assert figures["true_edit_cosine"] is None
        assert all(math.isfinite(figures[key]) for key in ("psnr_db", "warp_error", "response"))


def test_a_method_that_cannot_run_is_told_and_the_others_go_on(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--protocol", "synthetic", "--clips", "1", "--frames", "1"]
    assert command(*common, "--methods", "consecutive:steps=1", "encoder") == 1
    assert command.report()["summary"].keys() == {"encoder"}
    assert "consecutive:steps=1: consecutive images are at least 2" in (tmp_path / "report.md").read_text()
    capsys.readouterr()
    assert command(*common, "--methods", "consecutive") == 1
    assert "no method could run; consecutive: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--methods", "nothing"], "no method is named 'nothing'; there are encoder, w,"),
        (["--methods", "consecutive:shared=static"], "shared"),
        (["--methods", "w", "w"], "names 'w' more than once"),
        (["--protocol", "renders"], "no protocol is named 'renders'; there are rendered, synthetic and folder:DIR"),
        (["--protocol", "folder:/does/not/exist"], "/does/not/exist is no folder"),
        (["--attributes-edited", "age"], "no direction is named 'age'; this model has: smile, yaw"),
        (["--attributes", "/does/not/exist.safetensors"], "no model file at /does/not/exist.safetensors"),
        (["--lpips-weights", "/does/not/exist.pth"], ""),
        (["--device", "tpu"], "--device"),
        (["--passes", "1", "--protocol", "synthetic", "--frames", "2"], "less than one step of 'w'"),
        (["--json", "/proc/no/such.json"], "cannot be made"),
        (["--model", "nobody"], "no model is named 'nobody'"),
    ],
)
def test_bad_input_is_one_line(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert command(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("legato evaluate: ")
    assert text in error
    assert not list(command.folder.glob("results/*/*-*.json"))


@pytest.mark.parametrize("arguments", [["--clips", "0"], ["--strength", "nan"], ["--seed", "-1"], ["--fps", "0"]])
def test_wrong_numbers_are_wrong_usage(command: Command, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert ended.value.code == 2


def test_without_a_judging_network_the_rest_is_measured(command: Command, model: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in model.glob("*.safetensors"):
        if file.name != "attributes.safetensors":
            (alone / file.name).write_bytes(file.read_bytes())
    common = ["--protocol", "synthetic", "--clips", "1", "--frames", "2", "--methods", "encoder"]
    assert command("--model", str(alone), *common) == 0
    figures = command.report()["summary"]["encoder"]
    assert figures["response"] is None
    assert math.isfinite(figures["true_edit_cosine"])
    assert any("--attributes FILE" in note for note in command.report()["notes"])
    assert command("--model", str(alone), *common, "--attributes", str(model / "attributes.safetensors")) == 0
    assert math.isfinite(command.report()["summary"]["encoder"]["response"])


def test_a_generator_alone(command: Command, model: Path) -> None:
    """Neither encoder nor directions nor judge: what needs none of them is measured, the rest is told."""
    arguments = ["--model", str(model / "generator.safetensors"), "--clips", "1", "--frames", "2"]
    assert command(*arguments, "--methods", "w:start=w_avg,steps=1", "in_domain:steps=1") == 1
    report = command.report()
    figures = report["summary"]["w:start=w_avg,steps=1"]
    assert math.isfinite(figures["psnr_db"])
    assert figures["true_edit_cosine"] is None
    notes = "\n".join(report["notes"])
    for wanted in (
        "in_domain:steps=1: this method starts from an encoder",
        "no directions.safetensors",
        "--attributes",
    ):
        assert wanted in notes


def test_the_judge_is_no_method_s_loss(command: Command, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = str(model / "attributes.safetensors")
    assert command("--perceptual", "attributes", "--perceptual-weights", judge, "--methods", "encoder") == 1
    assert "the very attribute network that judges them" in capsys.readouterr().err


def test_quick_is_what_help_says(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("--help")
    assert f"{QUICK['clips']} clips of {QUICK['frames']} frames" in " ".join(capsys.readouterr().out.split())
    arguments = ["--protocol", "synthetic", "--quick", "--clips", "1", "--methods", "w"]
    assert command(*arguments, "--attributes-edited", "yaw") == 0
    report = command.report()
    assert report["settings"]["quick"] is True
    assert report["summary"]["w"]["passes_per_frame"] == QUICK["passes"]
    assert report["made_with"]["quick"].startswith("yes")
