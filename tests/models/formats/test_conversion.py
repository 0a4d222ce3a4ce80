"""Converted files, and the public implementations' own output (shared vectors; skipped where they are not)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from legato import cli
from legato.errors import ModelFileError
from legato.models import Generator, load_discriminator, load_encoder, load_generator
from legato.models.conversion import convert
from legato.models.files import read_header
from legato.models.inspection import inspect
from tests.models.encoders.public import random_state
from tests.models.formats.nets import CONFIG, pictures, random_discriminator, random_generator
from tests.models.formats.writers import psp, rosinality_state, rosinality_training, write_nvidia
from tests.tolerances import PUBLISHED_IMAGE

FIXTURES = Path(__file__).parents[4] / "shared" / "fixtures"
PUBLIC = [("rosinality_64.pt", "rosinality_64_io.npz", 1.0), ("nvidia_64_state.safetensors", "nvidia_64_io.npz", 0.7)]


def error(image: Tensor, wanted: Tensor) -> float:
    return float((image - wanted).abs().max() / wanted.std())


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the public implementations' vectors are not beside the repository")
@pytest.mark.parametrize(("checkpoint", "vectors", "truncation"), PUBLIC)
def test_parity_with_the_public_implementations(
    tmp_path: Path, checkpoint: str, vectors: str, truncation: float
) -> None:
    io = {key: torch.from_numpy(value) for key, value in np.load(FIXTURES / vectors).items()}
    generator = load_generator(FIXTURES / checkpoint)
    assert error(generator(io["w"]), io["image_w"]) <= PUBLISHED_IMAGE
    assert error(generator(generator.map(io["z"], truncation)), io["image_z"]) <= PUBLISHED_IMAGE
    out, header = convert(FIXTURES / checkpoint, tmp_path)
    again = load_generator(out)
    assert again.digest == header.digest == generator.digest
    assert torch.equal(again(io["w"]), generator(io["w"]))


def test_the_header_tells_license_and_origin(tmp_path: Path) -> None:
    path = write_nvidia(tmp_path / "network.pkl", random_generator())
    out, header = convert(path, tmp_path / "model", license="CC0-1.0", origin="https://example.org")
    assert out == tmp_path / "model" / "generator.safetensors"
    assert header == read_header(out)
    assert header.recipe["license"] == "CC0-1.0"
    origin = header.recipe["origin"]
    assert origin["file"] == "network.pkl"
    assert origin["told"] == "https://example.org"
    assert len(origin["sha256"]) == 64
    assert header.config["resolution"] == 32
    _, again = convert(out, tmp_path / "half.safetensors", dtype=torch.float16)
    assert again.recipe == header.recipe
    assert again.digest != header.digest


def test_bit_identical_from_every_format(tmp_path: Path) -> None:
    original: Generator = random_generator()
    torch.save(rosinality_training(original, random_discriminator()), tmp_path / "rosinality.pt")
    torch.save(psp(original, original.w_avg[None]), tmp_path / "psp.pt")
    write_nvidia(tmp_path / "nvidia.pkl", original)
    for source in sorted(tmp_path.iterdir()):
        loaded = load_generator(source)
        out, _ = convert(source, tmp_path / f"{source.stem}.safetensors")
        assert torch.equal(pictures(load_generator(out)), pictures(loaded))
        assert load_generator(out).digest == loaded.digest


def test_clamp_is_given_only_where_the_file_is_silent(tmp_path: Path) -> None:
    torch.save({"g_ema": rosinality_state(random_generator())}, tmp_path / "silent.pt")
    out, header = convert(tmp_path / "silent.pt", tmp_path, conv_clamp=256.0)
    assert load_generator(out).config.conv_clamp == 256.0
    assert header.recipe["notes"] == ["conv_clamp 256 was given by hand"]
    clamped = random_generator(type(CONFIG)(**{**read_header(out).config, "conv_clamp": 9.0}))
    with pytest.raises(ModelFileError, match="says that it clamps at 9"):
        convert(write_nvidia(tmp_path / "told.pkl", clamped), tmp_path, conv_clamp=256.0)


def test_nothing_is_written_where_something_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x02cos\nsystem\n.")
    for out, words in (
        (tmp_path / "out.safetensors", "asks for 'os.system'"),
        (tmp_path / "out.pt", "are .safetensors"),
    ):
        with pytest.raises(ModelFileError, match=words):
            convert(tmp_path / "bad.pkl", out)
        assert not out.exists()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_nvidia(tmp_path / "network.pkl", random_generator(), random_discriminator())
    assert cli.main(["inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["networks"]["generator"]["architecture"]["resolution"] == 32
    assert report["networks"]["discriminator"]["tensors"] == len(random_discriminator().state_dict())
    assert {"name": "G_ema.synthesis.b4.const", "shape": [16, 4, 4], "dtype": "float32"} in report["tensors"]
    assert cli.main(["inspect", str(path)]) == 0
    assert "  D                        network Discriminator\n" in capsys.readouterr().out
    for network, name in (("generator", "g"), ("discriminator", "d")):
        out = tmp_path / f"{name}.safetensors"
        assert cli.main(["convert", str(path), str(out), "--network", network, "--license", "MIT"]) == 0
        assert f"{network} of 32 px, float32, sha256 " in capsys.readouterr().out
        assert cli.main(["inspect", str(out), "--tensors"]) == 0
        assert "MIT" in capsys.readouterr().out
    assert load_discriminator(tmp_path / "d.safetensors").digest == load_discriminator(path).digest


def test_what_cannot_be_loaded_is_told_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "else.pt"
    torch.save({"epoch": 3, "model": {"weight": torch.zeros(2, 3)}, "a\x1b[31m": 1}, path)
    assert cli.main(["inspect", str(path), "--tensors"]) == 1
    text = capsys.readouterr().out
    assert "model.weight             float32   [2, 3]" in text
    assert "\x1b" not in text
    assert "cannot be loaded: " in text
    state = rosinality_state(random_generator())
    del state["conv1.noise.weight"]
    torch.save({"g_ema": state}, path)
    assert "conv1.noise.weight is missing" in inspect(path)["problem"]


def test_both_networks_of_one_file_into_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owner = random_generator()
    state = {f"encoder.{name}": tensor for name, tensor in random_state(8, width=16).items()}
    state |= {f"decoder.{name}": tensor for name, tensor in rosinality_state(owner).items()}
    opts = {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True, "stylegan_size": 32}
    average = torch.randn(8, state["encoder.styles.0.linear.bias"].shape[0])
    torch.save({"state_dict": state, "latent_avg": average, "opts": opts}, tmp_path / "e4e.pt")
    assert cli.main(["convert", str(tmp_path / "e4e.pt"), str(tmp_path / "model"), "--network", "encoder"]) == 0
    assert "style_encoder of " in capsys.readouterr().out
    encoder = load_encoder(tmp_path / "model")
    assert encoder.digest == load_encoder(tmp_path / "e4e.pt").digest
    assert read_header(tmp_path / "model" / "encoder.safetensors").recipe["origin"]["file"] == "e4e.pt"
    assert cli.main(["inspect", str(tmp_path / "model" / "encoder.safetensors")]) == 0
