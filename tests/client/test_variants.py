"""Variants and directions of the style space through the SDK and the command, on a server of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from legato.editing.directions import Directions, load_directions, save_directions
from legato.models import load_generator
from legato.types import DirectionInfo
from legato_client import Client, Frame, FrameResult, InvalidEdit, Outputs, png
from legato_client.cli import main
from legato_client.local import LocalServer, local_server
from legato_client.types import Answer
from tests.tolerances import BESIDE_OTHERS_LEVELS

Clip = list[NDArray[np.uint8]]
RAW = Outputs(format="raw", latents=True)


@pytest.fixture(scope="module")
def directions(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """smile of W+, and mouth, five channels of the style space."""
    generator, known = load_generator(model_folder), load_directions(model_folder)
    styles = generator.styles(generator.w_avg.expand(1, generator.num_layers, -1))
    mouth = torch.zeros(sum(layer.shape[1] for layer in styles))
    mouth[20:25] = torch.tensor([1.0, -1.0, 2.0, 0.5, -2.0])
    vectors = {"smile": known.vector("smile"), "mouth": mouth}
    infos = {"smile": known.info("smile"), "mouth": DirectionInfo("mouth", "opens it", 0.0, 0.0, space="s")}
    path = tmp_path_factory.mktemp("directions") / "mixed.safetensors"
    save_directions(Directions(vectors, infos, generator_digest=generator.digest), path, provenance={})
    return path


@pytest.fixture(scope="module")
def mixed(model_folder: Path, directions: Path) -> Iterator[LocalServer]:
    with local_server(model_folder, directions=directions, max_variants=3, threads=1, batch_buckets="1,2") as running:
        yield running


def result(answer: Answer) -> FrameResult:
    assert isinstance(answer, FrameResult), answer
    return answer


def close(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Up to the rounding of another batch."""
    return bool(abs(one.astype(int) - other).mean() <= BESIDE_OTHERS_LEVELS)


def test_directions_tell_their_space(mixed: LocalServer, capsys: pytest.CaptureFixture[str]) -> None:
    with Client(mixed.address) as client:
        assert {each.name: each.space for each in client.list_directions()} == {"mouth": "s", "smile": "w+"}
    assert main(["directions", "--server", mixed.address]) == 0
    assert "leakage  0.00  s   opens it" in capsys.readouterr().out


def test_steps_of_both_spaces_mix_in_a_frame_and_in_a_batch(mixed: LocalServer, clip: Clip, model_folder: Path) -> None:
    wanted = {"open": {"mouth": 3.0}, "both": {"mouth": -2.0, "smile": 1.0}, "plain": {"smile": 0.0}}
    with Client(mixed.address) as client:
        assert client.open().limits.max_variants == 3
        with client.open(edits={"mouth": 3.0}, variants=wanted, outputs=RAW) as session:
            found = result(next(session.stream(clip[:1])))
        assert found.latents is not None
        alone = client.invert(clip[0], edits={"smile": 1.0, "mouth": -2.0}, outputs=RAW)
        drawn = client.synthesize(latents=found.latents, edits={"mouth": 3.0}, outputs=RAW)
    assert list(found.variants) == list(wanted)
    shown = {name: image.pixels for name, image in found.variants.items()}
    assert found.reconstruction is not None
    assert found.edited is not None
    assert alone.edited is not None
    assert close(shown["plain"], found.reconstruction.pixels)
    assert close(shown["open"], found.edited.pixels)
    assert close(shown["both"], alone.edited.pixels)
    assert close(drawn.image.pixels, found.edited.pixels)
    assert not close(shown["open"], shown["plain"])
    by_hand = load_generator(model_folder)
    with torch.no_grad():
        image = by_hand(torch.tensor(found.latents)[None])[0]
    expected = ((image.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert abs(expected - found.reconstruction.pixels).mean() <= BESIDE_OTHERS_LEVELS


@pytest.mark.parametrize("method", ["encoder", "multi_code:codes=2,steps=1"])
def test_a_clip_as_a_whole_moves_in_both_spaces(mixed: LocalServer, clip: Clip, method: str) -> None:
    both = {"mouth": 3.0, "smile": -1.0}
    with Client(mixed.address) as client:
        found, further = (
            client.invert_clip(clip[:1], method, edits=edits).frames[0] for edits in (both, {"smile": -1.0})
        )
        assert found.edited is not None
        assert further.edited is not None
        assert not close(found.edited.pixels, further.edited.pixels)
        if method == "encoder":
            frame = client.invert(clip[0], edits=both)
            assert frame.edited is not None
            assert close(found.edited.pixels, frame.edited.pixels)


def test_variants_of_a_frame_and_of_an_update(mixed: LocalServer, clip: Clip) -> None:
    with Client(mixed.address) as client, client.open(variants=[{"smile": 1.0}, {"smile": -1.0}]) as session:
        answers = [result(each) for each in session.stream([clip[0], Frame(clip[1], variants={"o": {"mouth": 1.0}})])]
        session.update(variants=())
        answers.append(result(next(session.stream([clip[2]]))))
        with pytest.raises(InvalidEdit, match="at most 3 variants on this server; got 4"):
            client.invert(clip[0], variants=[{"smile": 1.0}] * 4)
    assert [list(answer.variants) for answer in answers] == [["1", "2"], ["o"], []]
    assert all(answer.edited is None for answer in answers)


def test_the_command_writes_every_variant_beside_its_output(
    mixed: LocalServer, clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for index, frame in enumerate(clip[:3]):
        (source / f"{index}.png").write_bytes(png.write(frame))
    arguments = ["--server", mixed.address, "--variant", "smile=2,mouth=-1", "--variant", "happy:smile=3", "--json"]
    assert main(["stream", str(source), str(tmp_path / "out"), *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["show"] == "reconstruction"
    assert report["variants"] == {name: str(tmp_path / f"out.{name}") for name in ("1", "happy")}
    files = {
        folder: sorted(file.name for file in (tmp_path / folder).iterdir()) for folder in ("out", "out.1", "out.happy")
    }
    assert set(map(tuple, files.values())) == {("0.png", "1.png", "2.png")}
    assert len({(tmp_path / folder / "0.png").read_bytes() for folder in files}) == 3
    assert main(["invert", str(source / "0.png"), str(tmp_path / "one.png"), *arguments]) == 0
    assert sorted(file.name for file in tmp_path.glob("one*")) == ["one.1.png", "one.happy.png", "one.png"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--variant", "a:smile=1", "--variant", "a:smile=2"], "two --variant have the same name"),
        (["--variant", "charm=1"], "unknown direction 'charm' of model 'tiny'; known: mouth, smile"),
    ],
)
def test_wrong_variants_of_the_command(
    mixed: LocalServer,
    clip: Clip,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    (tmp_path / "in.png").write_bytes(png.write(clip[0]))
    command = ["invert", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--server", mixed.address, *arguments]
    assert main(command) == 1
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_a_clip_as_a_whole_has_no_variants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["invert", str(tmp_path), str(tmp_path / "out"), "--variant", "smile=1"]) == 1
    assert "--variant is for `stream`, and for one image without a --method" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["smile", "a/b:smile=1", "smile=x", "=1", "smile=1,", "x:"])
def test_what_is_no_variant(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["invert", "in.png", "out.png", "--variant", text])
    assert f"as in smile=2,yaw=-1 or happy:smile=2; got {text!r}" in capsys.readouterr().err
