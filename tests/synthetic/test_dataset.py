"""Shards: what a killed run left is kept, what is read is what was rendered, what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from legato.synthetic import dataset
from legato.synthetic.dataset import from_uint8, read_shards, to_uint8, write_shards
from legato.synthetic.factors import sample_z
from legato.synthetic.renderer import Rendered, Renderer
from tests.tolerances import EXACT, LEVELS_ROUNDING

SHARD = 6


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "SHARD", SHARD)
    monkeypatch.setattr(dataset, "_BATCH", 4)


class Counting(Renderer):
    """Counts the heads that it renders, and is killed after `limit` of them."""

    def __init__(self, limit: int = 1000) -> None:
        super().__init__(16, 1)
        self.heads, self.limit = 0, limit

    def __call__(self, z: Tensor) -> Rendered:
        self.heads += len(z)
        if self.heads > self.limit:
            raise KeyboardInterrupt
        return super().__call__(z)


def test_levels_come_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    torch.testing.assert_close(to_uint8(from_uint8(levels)), levels, **EXACT)
    torch.testing.assert_close(to_uint8(torch.tensor([-3.0, 3.0])), torch.tensor([0, 255], dtype=torch.uint8), **EXACT)


def test_what_is_read_is_what_was_rendered(tmp_path: Path) -> None:
    renderer = Counting()
    done: list[int] = []
    write_shards(tmp_path, range(1, 3), renderer, "eval", done.append)
    assert sum(done) == 2 * SHARD
    heads = read_shards(tmp_path, "eval")
    assert len(heads) == 2 * SHARD
    assert heads.seeds.tolist() == list(range(SHARD, 3 * SHARD))
    assert heads.masks.shape == (12, 2, 8, 8)
    expected = renderer(sample_z(range(8, 12), "eval"))
    images, masks = heads.batch(torch.arange(2, 6))
    torch.testing.assert_close(to_uint8(images), to_uint8(expected.image), **LEVELS_ROUNDING)
    half = torch.nn.functional.avg_pool2d(torch.cat([expected.eyes, expected.mouth], 1), 2)
    torch.testing.assert_close((masks * 255).round(), (half * 255).round(), **EXACT)
    assert images.abs().max() <= 1


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """The shard that was under way is rendered anew, the one before is not touched, the result is the same."""
    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path, range(3), Counting(limit=10))
    assert [file.name for file in sorted(tmp_path.glob("*.npz"))] == ["train-00000.npz"]
    first = (tmp_path / "train-00000.npz").stat().st_mtime_ns
    renderer = Counting()
    done: list[int] = []
    write_shards(tmp_path, range(3), renderer, progress=done.append)
    assert renderer.heads == 2 * SHARD
    assert sum(done) == 3 * SHARD
    assert (tmp_path / "train-00000.npz").stat().st_mtime_ns == first
    whole = tmp_path / "whole"
    write_shards(whole, range(3), Counting())
    np.testing.assert_array_equal(read_shards(tmp_path).images, read_shards(whole).images)
    assert sorted(file.suffix for file in tmp_path.iterdir() if file.is_file()) == [".npz"] * 3


def test_splits_lie_beside_each_other(tmp_path: Path) -> None:
    for split in ("train", "eval"):
        write_shards(tmp_path, range(1), Counting(), split)
    train, held_out = read_shards(tmp_path), read_shards(tmp_path, "eval")
    assert len(train) == len(held_out) == SHARD
    assert (train.images != held_out.images).any()


def test_a_folder_without_shards_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"legato render --dataset .* --split eval"):
        read_shards(tmp_path, "eval")


def test_another_resolution_is_refused_before_anything_is_rendered(tmp_path: Path) -> None:
    write_shards(tmp_path, range(1, 2), Renderer(8, 1))
    renderer = Counting()
    with pytest.raises(ValueError, match="of 8 pixels; take another folder for 16 pixels"):
        write_shards(tmp_path, range(3), renderer)
    assert renderer.heads == 0
    (tmp_path / "train-00001.npz").rename(tmp_path / "train-00009.npz")
    write_shards(tmp_path, range(1), renderer)
    with pytest.raises(ValueError, match=r"several resolutions: \[8, 16\]"):
        read_shards(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    write_shards(tmp_path, range(1), Counting())
    shard = tmp_path / "train-00000.npz"
    if damage == "other":
        np.savez(shard, pictures=np.zeros(3))
    else:
        shard.write_bytes(shard.read_bytes()[:500] if damage == "cut" else b"")
    for act in (lambda: read_shards(tmp_path), lambda: write_shards(tmp_path, range(1), Counting())):
        with pytest.raises(ValueError, match=r"train-00000\.npz is damaged or no shard of renders .* delete it"):
            act()
