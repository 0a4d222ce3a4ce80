"""`legato edit`: every kind of edit, from codes and from pictures, and what is said of wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from legato.editing.directions import load_directions
from legato.models import load_generator
from legato.offline import find, read, write_png
from legato.offline.codes import load_codes
from legato.offline.editing import shown
from legato.types import Edit
from tests.offline.pictures import PLAIN, legato, told, write_clip, write_folder
from tests.rpc.model import save_tiny_model
from tests.tolerances import DIFFERENCE_ROUNDING, EXACT


def edit(model: Path, *arguments: object) -> int:
    return legato("edit", *arguments, "--model", model, *PLAIN)


@pytest.fixture(scope="module")
def codes(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a clip of six frames, a picture, and the same by multi_code were inverted."""
    base = tmp_path_factory.mktemp("codes")
    clip, folder = write_clip(model, base / "clip.mp4"), write_folder(model, base / "photo", 1, seed=3)
    common = ("--model", model, *PLAIN, "--steps", 2)
    assert legato("invert", clip, "--out", base, *common) == 0
    assert legato("invert", folder / "frame_8.png", "--method", "w_plus", "--out", base, *common) == 0
    several = ("--method", "multi_code:codes=2,resolution=8")
    assert legato("invert", clip, *several, "--out", base / "several", *common) == 0
    return base


def latents(path: Path) -> torch.Tensor:
    return load_codes(path).clip.latents


def images(path: Path) -> NDArray[np.uint8]:
    return read(find([path])[0], 64).frames


def test_directions_are_added_to_every_frame(model: Path, codes: Path, tmp_path: Path) -> None:
    source = codes / "clip" / "latents.npz"
    assert edit(model, source, "--edit", "smile=2", "--edit", "yaw=-1", "--out", tmp_path) == 0
    found = load_codes(tmp_path / "clip" / "edited.npz")
    wanted = load_directions(model).edit(latents(source), [[Edit("smile", 2), Edit("yaw", -1)]] * 6)
    torch.testing.assert_close(found.clip.latents, wanted, **DIFFERENCE_ROUNDING)
    assert found.kind == "clip"
    assert len(images(tmp_path / "clip" / "edited.mp4")) == 6
    assert (tmp_path / "clip" / "edited_sheet.png").exists()
    report = json.loads((tmp_path / "clip" / "edit.json").read_text())
    assert report["asked"] == {"edit": {"smile": 2.0, "yaw": -1.0}}
    assert set(report["files"]) == {"edited.npz", "edited.mp4", "edited_sheet.png"}


def test_edits_follow_each_other(model: Path, codes: Path, tmp_path: Path) -> None:
    assert edit(model, codes / "clip" / "latents.npz", "--edit", "smile=2", "--out", tmp_path / "a") == 0
    assert edit(model, tmp_path / "a" / "clip" / "edited.npz", "--edit", "smile=-2", "--out", tmp_path / "b") == 0
    back = latents(tmp_path / "b" / "edited" / "edited.npz")
    torch.testing.assert_close(back, latents(codes / "clip" / "latents.npz"), **DIFFERENCE_ROUNDING)


def test_layers_bound_what_moves(model: Path, codes: Path, tmp_path: Path) -> None:
    source = codes / "clip" / "latents.npz"
    assert edit(model, source, "--edit", "smile=2", "--layers", "0-2,9", "--out", tmp_path) == 0
    moved = (latents(tmp_path / "clip" / "edited.npz") - latents(source)).abs().amax((0, 2)) > 0
    assert moved.tolist() == [True] * 3 + [False] * 6 + [True]


def test_a_sweep_has_a_file_for_each_strength(model: Path, codes: Path, tmp_path: Path) -> None:
    source = codes / "frame_8" / "latents.npz"
    assert edit(model, source, "--sweep", "smile=-1:1:3", "--sweep", "yaw=0:2:2", "--out", tmp_path) == 0
    names = sorted(path.name for path in (tmp_path / "frame_8" / "smile_sweep").glob("*.png"))
    assert names == ["smile+0.png", "smile+1.png", "smile-1.png"]
    still = latents(tmp_path / "frame_8" / "smile_sweep" / "smile+0.npz")
    torch.testing.assert_close(still, latents(source), **EXACT)
    assert images(tmp_path / "frame_8" / "yaw_sweep_sheet.png").shape[0] == 1
    assert (tmp_path / "frame_8" / "smile_sweep_sheet.png").exists()


def test_codes_of_multi_code_are_moved_whole(model: Path, codes: Path, tmp_path: Path) -> None:
    source = codes / "several" / "clip" / "latents.npz"
    assert edit(model, source, "--edit", "smile=0", "--out", tmp_path / "still") == 0
    generator = load_generator(model)
    before = shown(load_codes(source), generator)
    np.testing.assert_array_equal(shown(load_codes(tmp_path / "still" / "clip" / "edited.npz"), generator), before)
    assert edit(model, source, "--edit", "smile=2", "--out", tmp_path / "moved") == 0
    moved = shown(load_codes(tmp_path / "moved" / "clip" / "edited.npz"), generator)
    assert np.abs(moved.astype(int) - before).mean() > 1
    written = images(tmp_path / "moved" / "clip" / "edited.mp4")
    assert np.abs(written.astype(int) - moved).mean() < np.abs(written.astype(int) - before).mean()
    was, now = (load_codes(path).clip.composition for path in (source, tmp_path / "moved" / "clip" / "edited.npz"))
    assert was is not None
    assert now is not None
    torch.testing.assert_close(now.importances, was.importances, **EXACT)
    assert not torch.equal(now.codes, was.codes)


def test_free_noise_maps_are_kept_with_the_codes(model: Path, codes: Path, tmp_path: Path) -> None:
    photo, method = codes / "photo" / "frame_8.png", "w_plus:steps=2,noise_weight=1"
    common = ("--model", model, *PLAIN)
    assert legato("invert", photo, "--method", method, "--out", tmp_path, *common) == 0
    assert edit(model, tmp_path / "frame_8" / "latents.npz", "--edit", "smile=0", "--out", tmp_path) == 0
    found, edited = (load_codes(tmp_path / "frame_8" / f"{name}.npz").clip.noise for name in ("latents", "edited"))
    assert [maps.shape[-1] for maps in found] == [4, 8, 8, 16, 16, 32, 32, 64, 64]
    assert all(maps.std() > 0.5 for maps in found)
    for before, after in zip(found, edited, strict=True):
        torch.testing.assert_close(after, before, **EXACT)


def test_a_mix_takes_layers_of_the_style(model: Path, codes: Path, tmp_path: Path) -> None:
    content, style = (codes / name / "latents.npz" for name in ("clip", "frame_8"))
    assert edit(model, content, "--mix", style, "--layers", "8-9", "--out", tmp_path) == 0
    mixed = latents(tmp_path / "clip" / "mixed.npz")
    torch.testing.assert_close(mixed[:, :8], latents(content)[:, :8], **EXACT)
    torch.testing.assert_close(mixed[:, 8:], latents(style)[:, 8:].expand(6, -1, -1), **EXACT)
    assert len(images(tmp_path / "clip" / "mixed.mp4")) == 6


def test_interpolation_begins_and_ends_at_the_two(model: Path, codes: Path, tmp_path: Path) -> None:
    first, last = (codes / name / "latents.npz" for name in ("clip", "frame_8"))
    assert edit(model, first, "--interpolate", last, "--between", 3, "--out", tmp_path) == 0
    way = latents(tmp_path / "clip" / "interpolated.npz")
    assert len(way) == 5
    torch.testing.assert_close(way[[0, -1]], torch.cat([latents(first)[:1], latents(last)]), **EXACT)
    assert len(list((tmp_path / "clip" / "interpolated").iterdir())) == 5


def test_a_transfer_moves_a_picture_as_a_clip_moves(model: Path, codes: Path, tmp_path: Path) -> None:
    photo, clip = (codes / name / "latents.npz" for name in ("frame_8", "clip"))
    assert edit(model, photo, "--transfer", clip, "--strength", 2, "--out", tmp_path) == 0
    found = load_codes(tmp_path / "frame_8" / "transferred.npz")
    steps = latents(clip).diff(dim=0).mean(1, keepdim=True)
    wanted = latents(photo) + 2 * torch.cat([torch.zeros(1, 1, 16), steps.cumsum(0)])
    torch.testing.assert_close(found.clip.latents, wanted, **DIFFERENCE_ROUNDING)
    assert found.timing == load_codes(clip).timing
    assert len(images(tmp_path / "frame_8" / "transferred.mp4")) == 6


@pytest.mark.parametrize("how", ["crop", "mask"])
def test_a_crop_is_diffused_into_a_context(model: Path, codes: Path, tmp_path: Path, how: str) -> None:
    target, context = codes / "photo" / "frame_8.png", write_folder(model, tmp_path / "context", 1)
    wanted: tuple[object, ...] = ("--crop", "32,32,16")
    if how == "mask":
        mask = np.zeros((128, 128, 3), np.uint8)
        mask[48:80, 48:80] = 255
        write_png(tmp_path / "mask.png", mask)
        wanted = ("--mask", tmp_path / "mask.png")
    assert edit(model, target, "--diffuse", context, *wanted, "--steps", 5, "--out", tmp_path / how) == 0
    found = load_codes(tmp_path / how / "frame_8" / "diffused.npz")
    assert found.history["pixel"][-1] < found.history["pixel"][0]
    assert images(tmp_path / how / "frame_8" / "diffused.png").shape == (1, 64, 64, 3)
    if how == "mask":  # the same square, at twice the size
        assert edit(model, target, "--diffuse", context, "--crop", "32,32,16", "--steps", 5, "--out", tmp_path) == 0
        torch.testing.assert_close(latents(tmp_path / "frame_8" / "diffused.npz"), found.clip.latents, **EXACT)


def test_pictures_are_inverted_first(
    model: Path, codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = codes / "photo" / "frame_8.png"
    command = (photo, "--edit", "smile=1", "--steps", 2, "--out", tmp_path)
    assert edit(model, *command) == 0
    assert load_codes(tmp_path / "frame_8" / "latents.npz").method == "in_domain:steps=2"
    assert f"{tmp_path / 'frame_8'}: edited.npz, edited.png, edited_sheet.png" in capsys.readouterr().out
    assert edit(model, *command, "--json") == 0
    output = capsys.readouterr()
    assert "frame_8: already inverted" in output.err
    assert json.loads(output.out)["inputs"][0]["name"] == "frame_8"


def test_the_directions_are_listed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit(model, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["smile", "more", "smile", "2.00", "0.10"] for line in lines)
    assert edit(model, "--list", "--json") == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == ["smile", "yaw"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "name an edit: --edit NAME=STRENGTH"),
        (("--edit", "frown=1"), "no direction is named 'frown'"),
        (("--edit", "smile=1", "--mix", "x.npz"), "--mix and --edit are two commands"),
        (("--edit", "smile=1", "--layers", "8-12"), "--layers: layers are 0..9; got 8-12"),
        (("--mix", "missing.npz"), "--mix needs --layers"),
        (("--mix", "missing.npz", "--layers", "1"), "missing.npz does not exist; `legato invert` writes latents.npz"),
        (("--transfer", "{photo}"), "frame_8 has a single one; give a clip"),
        (("--mix", "{several}", "--layers", "1"), "clip was inverted by multi_code"),
        (("--mix", "{clip}", "--layers", "99"), "--layers: layers are 0..9; got [99]"),
        (("--diffuse", "{photo}"), "--diffuse needs one of --crop X,Y,SIDE and --mask FILE"),
        (("--edit", "smile=1", "--crop", "1,2,3"), "--crop and --mask belong to --diffuse"),
        (("--edit", "smile=1", "--strength", "2"), "--strength belongs to --transfer"),
    ],
)
def test_what_does_not_go_together_is_told(
    model: Path,
    codes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    words: str,
) -> None:
    places = {"photo": codes / "frame_8" / "latents.npz", "clip": codes / "clip" / "latents.npz"}
    places["several"] = codes / "several" / "clip" / "latents.npz"
    given = [option.format(**places) for option in options]
    assert edit(model, places["clip"], *given, "--out", tmp_path / "out") == 1
    assert words in told(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--sweep=smile=3", "a sweep is NAME=FROM:TO:COUNT"),
        ("--sweep=smile=-1:1:1", "with at least 2 strengths"),
        ("--layers=11-8", "as in 8-11 or 0,3; got '11-8'"),
        ("--crop=1,2", "a crop is X,Y,SIDE"),
    ],
)
def test_what_cannot_be_parsed_is_wrong_usage(capsys: pytest.CaptureFixture[str], option: str, words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        legato("edit", "x.npz", option, "--out", "out")
    assert ended.value.code == 2
    assert words in told(capsys)


def test_codes_of_another_model_and_damaged_files_are_refused(
    model: Path, codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_tiny_model(tmp_path / "other", seed=5)
    source = codes / "clip" / "latents.npz"
    assert edit(other, source, "--edit", "smile=1", "--out", tmp_path / "out") == 1
    assert f"{source} holds codes of the generator" in told(capsys)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(source.read_bytes()[:-100])
    assert edit(model, damaged, "--edit", "smile=1", "--out", tmp_path / "out") == 1
    assert "damaged.npz holds no codes that can be read" in told(capsys)
    np.savez(damaged, latents=np.full((2, 10, 16), np.nan, np.float32), model_digest="")
    assert edit(model, damaged, "--edit", "smile=1", "--out", tmp_path / "out") == 1
    assert "latents are [T, L, D] of finite numbers" in told(capsys)


def test_the_demo_s_latents_can_be_edited(model: Path, codes: Path, tmp_path: Path) -> None:
    """Codes and digest alone, as `make demo` and the client write them."""
    whole = load_codes(codes / "clip" / "latents.npz")
    plain = tmp_path / "plain.npz"
    np.savez(plain, latents=whole.clip.latents.numpy(), model_digest=whole.model_digest)
    assert edit(model, plain, "--edit", "smile=1", "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out" / "plain" / "edited").iterdir())) == 6
