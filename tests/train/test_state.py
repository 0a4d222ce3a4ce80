"""What every training keeps: averages, checkpoints, the log, the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor, nn

from legato.errors import ConfigError
from legato.train.state import Ema, Log, load_checkpoint, save_checkpoint, write_grid
from tests.tolerances import EXACT, LOSS_ROUNDING


class Scalar(nn.Module):
    """One parameter and one buffer."""

    buffer: Tensor

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.register_buffer("buffer", torch.tensor(value))


def test_average_halves_its_distance_in_a_half_life() -> None:
    live, shadow = Scalar(0.0), Scalar(9.0)
    ema = Ema(live, shadow, half_life=100)
    assert float(shadow.value) == 0.0  # begins as a copy
    live.value.data.fill_(1.0)
    live.buffer.fill_(5.0)
    ema.update(100, seen=10_000)
    torch.testing.assert_close(shadow.value.data, torch.tensor(0.5), **LOSS_ROUNDING)
    ema.update(50, seen=10_050)
    torch.testing.assert_close(shadow.value.data, torch.tensor(1 - 0.5**1.5), **LOSS_ROUNDING)
    torch.testing.assert_close(shadow.buffer, torch.tensor(5.0), **EXACT)
    assert not shadow.value.requires_grad


def test_average_is_short_while_the_training_is_young() -> None:
    """The half life is at most a tenth of the images seen."""
    live, shadow = Scalar(0.0), Scalar(0.0)
    ema = Ema(live, shadow, half_life=10_000)
    live.value.data.fill_(1.0)
    ema.update(16, seen=160)
    torch.testing.assert_close(shadow.value.data, torch.tensor(0.5), **LOSS_ROUNDING)


def test_checkpoint_comes_back_and_replaces_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1, "weights": torch.ones(2)})
    save_checkpoint(path, {"step": 2, "weights": torch.zeros(2)})
    state = load_checkpoint(path)
    assert state["step"] == 2
    assert not state["weights"].any()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 half of one"])
def test_damaged_checkpoint_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt is no checkpoint.*remove it to begin anew"):
        load_checkpoint(path)


def test_log_counts_its_seconds_on(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"seconds": 3600.0, "images": 8}\n{"seconds": 40')
    log = Log(tmp_path)
    log.write(images=16, psnr_db=float("inf"), note="begins a line of its own")
    assert log.seconds >= 3600
    *_, last = (tmp_path / "log.jsonl").read_text().splitlines()
    row = json.loads(last)
    assert row["seconds"] >= 3600
    assert row["psnr_db"] is None


def test_grid_shows_rows_of_pictures(tmp_path: Path) -> None:
    red = torch.full((3, 3, 8, 8), -1.0)
    red[:, 0] = 1.0
    write_grid(tmp_path / "samples.png", [red, -red])
    grid = cv2.imread(str(tmp_path / "samples.png"))
    assert grid is not None
    assert grid.shape == (16, 24, 3)
    assert grid[0, 0].tolist() == [0, 0, 255]  # OpenCV's order
    assert grid[8, 0].tolist() == [255, 255, 0]
