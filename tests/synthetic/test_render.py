"""`legato render`, by its own command line: sheets, clips, flow, data sets, and what it refuses."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from legato import cli
from legato.errors import ConfigError
from legato.synthetic import dataset
from legato.synthetic.clips import clip_flow, clip_z, render_clip, run_z
from legato.synthetic.factors import ATTRIBUTES, attributes_of, sample_z
from legato.synthetic.media import sheet, write_clip
from legato.synthetic.renderer import Renderer
from tests.tolerances import ATTRIBUTE_TEXT, CODEC_LEVELS, LEVELS_ROUNDING

SMALL = ["--resolution", "16", "--supersample", "1"]


def render(*arguments: object) -> int:
    return cli.main(["render", *map(str, arguments), *SMALL])


def read_rgb(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    return image.astype(np.uint8, copy=False)


def test_a_sheet_is_filled_row_by_row() -> None:
    images = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    page = sheet(images, 3)
    np.testing.assert_array_equal(page[::2, ::2, 0], [[1, 2, 3], [4, 5, 0]])
    assert sheet(images, 9).shape == (2, 10, 3)


def test_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "sheet.png"
    assert render("--sheet", out, "--count", 10, "--columns", 4, "--first", 3, "--attributes", tmp_path / "a.csv") == 0
    assert str(out) in capsys.readouterr().out
    page = read_rgb(out)
    assert page.shape == (3 * 16, 4 * 16, 3)
    expected = dataset.to_uint8(Renderer(16, 1)(sample_z(range(3, 13), "eval")).image).permute(0, 2, 3, 1).numpy()
    assert np.abs(page[16:32, 16:32].astype(int) - expected[5]).max() <= 1
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["seed"]) for row in rows] == list(range(3, 13))
    values = [[float(row[name]) for name in ATTRIBUTES] for row in rows]
    np.testing.assert_allclose(values, attributes_of(sample_z(range(3, 13), "eval")), **ATTRIBUTE_TEXT)


def test_clip_as_video_with_flow(tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    options = ["--identity", 5, "--motion", 2, "--frames", 9, "--fps", 12.5, "--flow"]
    assert render("--clip", out, *options, "--attributes", tmp_path / "a.json") == 0
    expected = render_clip(Renderer(16, 1), 5, 2, 9, fps=12.5)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate or 0) == 12.5
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert frames.shape == expected.images.shape
    assert np.abs(frames.astype(float) - expected.images).mean() < CODEC_LEVELS
    with np.load(tmp_path / "clip.npz") as saved:
        flow, visible = clip_flow(clip_z(5, 2, 9, fps=12.5), 16)
        np.testing.assert_array_equal(saved["flow"], flow)
        np.testing.assert_array_equal(saved["visible"], visible)
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [row["frame"] for row in rows] == list(range(9))
    assert rows[3]["time"] == 3 / 12.5
    assert list(rows[0])[2:] == list(ATTRIBUTES)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "clip.mp4", "clip.npz"]


def test_clip_as_folder(tmp_path: Path) -> None:
    out = tmp_path / "clip"
    for _ in range(2):  # again over the same frames
        assert render("--clip", out, "--frames", 3, "--flow", "--split", "train") == 0
    assert sorted(file.name for file in out.iterdir()) == ["000000.png", "000001.png", "000002.png", "flow.npz"]
    expected = render_clip(Renderer(16, 1), 0, 0, 3, "train").images
    np.testing.assert_array_equal(np.stack([read_rgb(out / f"{i:06d}.png") for i in range(3)]), expected)


def test_odd_sides_keep_all_their_pixels(tmp_path: Path) -> None:
    images = np.full((3, 15, 15, 3), 128, np.uint8)
    write_clip(tmp_path / "odd.mp4", images, 25)
    with av.open(str(tmp_path / "odd.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (15, 15)


def test_dataset_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "SHARD", 8)
    assert render("--dataset", tmp_path, "--images", 8, "--runs", "--split", "eval") == 0
    expected = Renderer(16, 1)(run_z(range(8), "eval")).image
    torch.testing.assert_close(
        torch.from_numpy(dataset.read_shards(tmp_path, "eval").images), dataset.to_uint8(expected), **LEVELS_ROUNDING
    )


def test_dataset_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(dataset, "SHARD", 4)
    out = tmp_path / "heads"
    assert render("--dataset", out, "--images", 3) == 0
    first = (out / "train-00000.npz").stat().st_mtime_ns
    assert render("--dataset", out, "--images", 5, "--attributes", tmp_path / "a.csv") == 0
    assert (out / "train-00000.npz").stat().st_mtime_ns == first
    assert "8 images of the split 'train' in 2 shards" in capsys.readouterr().out
    assert len(dataset.read_shards(out)) == 8
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 9
    (out / "train-00000.npz").write_bytes(b"")
    assert render("--dataset", out, "--images", 5) == 1
    assert "delete it and render it anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sheet", "sheet.jpg"], "a sheet is a .png file"),
        (["--sheet", "sheet.png", "--flow"], "--flow is between the frames of a clip"),
        (["--sheet", "sheet.png", "--images", "5"], "--images belongs to --dataset"),
        (["--sheet", "sheet.png", "--attributes", "a.txt"], "attributes are written as .csv or .json"),
        (["--dataset", "heads"], "--dataset needs --images N"),
        (["--sheet", "sheet.png", "--runs"], "--runs belongs to --dataset"),
        (["--clip", "clip.gif"], "a clip is .mp4, .mkv, .mov, or a folder"),
        (["--clip", "file"], "file is a file; a folder of PNG was to be written there"),
        (["--clip", "full", "--frames", "2"], "full holds pictures of something else (000007.png)"),
        (["--sheet", "file/sheet.png", "--count", "1"], "file cannot be written"),
        (["--sheet", "sheet.png", "--supersample", "3", "--resolution", "3"], "multiple of 4; got 3 * 3"),
        (["--sheet", "sheet.png", "--device", "abacus"], "abacus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said_in_a_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "000007.png").write_bytes(b"")
    assert cli.main(["render", *SMALL, *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("legato render: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--sheet", "a.png", "--clip", "b"],
        ["--sheet", "a.png", "--count", "0"],
        ["--clip", "b", "--identity", "-1"],
        ["--clip", "b", "--fps", "nan"],
        ["--sheet", "a.png", "--split", "test"],
    ],
)
def test_wrong_usage_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["render", *arguments])
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_video_without_pyav_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    media = importlib.import_module("legato.synthetic.media")
    with pytest.raises(ConfigError, match=r"needs PyAV \(pip install 'legato\[video\]'\)"):
        media.check_clip_path(tmp_path / "clip.mp4", 1)
