"""Data of trainings: folders of images and of renders, and what is said of folders that hold neither."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from legato.errors import ConfigError
from legato.train.data import open_data
from tests.train.small import write_shard


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def three_bands(height: int, width: int, along: int) -> np.ndarray:
    """Blue, green, red thirds in OpenCV's order, along an axis."""
    bands = np.zeros((height, width, 3), np.uint8)
    for i, part in enumerate(np.array_split(bands, 3, axis=along)):
        part[..., i] = 255
    return bands


def test_images_are_cropped_to_their_middle(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "wide.png", three_bands(20, 60, 1))
    write_image(tmp_path / "images" / "below" / "tall.PNG", three_bands(60, 20, 0))
    write_image(tmp_path / "images" / "gray.jpg", np.full((10, 10), 100, np.uint8))
    data = open_data(tmp_path / "images", 16, tmp_path / "cache")
    assert not data.rendered
    # The first of the sorted files, below/tall.PNG, is held out; gray.jpg and wide.png are left.
    image, masks = data.train().batch(torch.tensor([0, 1]))
    assert image.shape == (2, 3, 16, 16)
    assert ((image[0] + 1) * 127.5 - 100).abs().max() < 1.5
    assert not masks.any()
    held_out, _ = data.held_out().batch(torch.tensor([0]))
    green = torch.tensor([-1.0, 1.0, -1.0])[:, None, None].expand(3, 16, 16)
    for middle in (image[1], held_out[0]):
        assert torch.equal(middle, green)


def test_images_are_decoded_once(tmp_path: Path) -> None:
    for i in range(3):
        write_image(tmp_path / "images" / f"{i}.png", np.full((16, 16, 3), 80 * i, np.uint8))
    seen: list[Path] = []

    def watch(files: list[Path]) -> list[Path]:
        seen.extend(files)
        return files

    first = open_data(tmp_path / "images", 8, tmp_path / "cache", watch)  # type: ignore[arg-type]
    assert len(seen) == 3
    again = open_data(tmp_path / "images", 8, tmp_path / "cache", watch)  # type: ignore[arg-type]
    assert len(seen) == 3
    np.testing.assert_array_equal(first.train().images, again.train().images)
    write_image(tmp_path / "images" / "2.png", np.full((16, 16, 3), 7, np.uint8))
    changed = open_data(tmp_path / "images", 8, tmp_path / "cache", watch)  # type: ignore[arg-type]
    assert set(changed.train().images[:, 0, 0, 0].tolist()) == {80, 7}


def test_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    for name in "bcde":
        (tmp_path / f"{name}.jpg").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"4 of 4 files are no images that OpenCV can decode: .*b\.jpg.*\.\.\."):
        open_data(tmp_path, 8, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*.npy")) == []


def test_renders_come_with_their_masks(tmp_path: Path) -> None:
    write_shard(tmp_path, "train-00000", 16)
    write_shard(tmp_path, "eval-00000", 16, seed=1)
    data = open_data(tmp_path, 16, tmp_path / "cache")
    assert data.rendered
    assert (len(data.train()), len(data.held_out())) == (512, 512)
    _, masks = data.train().batch(torch.arange(2))
    assert masks.any()
    assert data.train() is data.train()
    write_shard(tmp_path, "train-00001", 16)
    assert len(data.train()) == 1024  # renders may be made while the training runs


def test_renders_are_reduced_to_the_resolution(tmp_path: Path) -> None:
    write_shard(tmp_path, "train-00000", 16)
    whole = open_data(tmp_path, 16, tmp_path / "cache").train().images
    half = open_data(tmp_path, 8, tmp_path / "cache").train()
    blocks = whole.reshape(512, 3, 8, 2, 8, 2).astype(np.float64).mean((3, 5))
    assert np.abs(half.images - blocks).max() <= 0.5
    assert half.masks.shape == (512, 2, 4, 4)
    with pytest.raises(ConfigError, match=r"are 16 pixels wide, from which 32 cannot be made.*legato render --dataset"):
        open_data(tmp_path, 32, tmp_path / "cache").train()


@pytest.mark.parametrize("files", [[], ["one.png"], ["readme.txt"]])
def test_folder_without_data_names_the_command_that_makes_some(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        write_image(tmp_path / "x.png", np.zeros((8, 8, 3), np.uint8))
        (tmp_path / "x.png").rename(tmp_path / name)
    with pytest.raises(
        ConfigError, match=rf"at least two .*legato render --dataset {tmp_path} --images 20000 --resolution 64"
    ):
        open_data(tmp_path, 64, tmp_path / "cache")


def test_renders_of_one_split_alone_say_how_to_make_the_other(tmp_path: Path) -> None:
    write_shard(tmp_path, "train-00000", 16)
    data = open_data(tmp_path, 16, tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"holds no eval-\*\.npz; make them with: legato render .* --split eval"):
        data.held_out()
