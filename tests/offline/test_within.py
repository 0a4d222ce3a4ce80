"""`legato edit --within`: an edit stays in the white of a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from legato.offline import find, read, write_png
from tests.offline.pictures import PLAIN, legato, told, write_clip, write_folder

SIDE = 64


def edit(model: Path, *arguments: object) -> int:
    return legato("edit", *arguments, "--model", model, *PLAIN)


def mask(path: Path, *, black: bool = False) -> Path:
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    if not black:
        picture[32:56, 16:48] = 255
    write_png(path, picture)
    return path


def test_the_picture_changes_less_outside(model: Path, tmp_path: Path) -> None:
    clip, region, out = write_clip(model, tmp_path / "clip.mp4"), mask(tmp_path / "mask.png"), tmp_path / "out"
    assert legato("invert", clip, "--method", "encoder", "--out", out, "--model", model, *PLAIN) == 0
    codes = out / "clip" / "latents.npz"
    for more, name in ((("--within", region), "within"), ((), "edited")):
        assert edit(model, codes, "--edit", "smile=2", *more, "--out", tmp_path / name) == 0
    within, plain = (tmp_path / name / "clip" / f"{name}.mp4" for name in ("within", "edited"))
    before = read(find([out / "clip" / "reconstruction.mp4"])[0], SIDE).frames.astype(int)
    outside = read(find([region])[0], SIDE).frames[0, :, :, 0] == 0
    changes = [abs(read(find([path])[0], SIDE).frames - before)[:, outside].mean() for path in (within, plain)]
    assert changes[0] < 0.7 * changes[1]
    assert (tmp_path / "within" / "clip" / "within_sheet.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "smile=-1:1:3"], "--within belongs to --edit, and goes without --sweep"),
        (["--edit", "grin=1"], "no direction is named 'grin'"),
    ],
)
def test_what_it_does_not_go_with_is_told(
    model: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, region = write_folder(model, tmp_path / "photo", 1), mask(tmp_path / "mask.png")
    assert edit(model, photo, *arguments, "--within", region, "--out", tmp_path / "out") == 1
    assert message in told(capsys)


def test_wrong_regions_and_codes_are_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, region = write_folder(model, tmp_path / "photo", 1), mask(tmp_path / "mask.png", black=True)
    assert edit(model, photo, "--edit", "smile=1", "--within", region, "--out", tmp_path / "out") == 1
    assert "is black: nothing is wanted" in told(capsys)
    several = ("--method", "multi_code:codes=2,resolution=8,steps=1")
    region = mask(tmp_path / "mask.png")
    assert edit(model, photo, "--edit", "smile=1", "--within", region, *several, "--out", tmp_path / "out") == 1
    assert "Invert it by another method" in told(capsys)
