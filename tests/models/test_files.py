"""Model files: round trips, and a refusal that says what to do for everything that can be wrong with a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from legato.errors import ModelFileError
from legato.models import Encoder, EncoderConfig, load_encoder, load_generator, save_model
from legato.models.files import read_header, resolve
from tests.models.golden import CONFIG, golden_generator, golden_z
from tests.tolerances import HALF_STORAGE

RECIPE = {"images": 1000, "commit": "abc", "figures": {"psnr_db": 27.5}}


def small_encoder() -> Encoder:
    config = EncoderConfig(64, 10, w_dim=16, channel_base=256, channel_max=32, pyramid_channels=12)
    return Encoder(config).requires_grad_(False).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a generator and an encoder, as a packaged model has them."""
    save_model(golden_generator(), tmp_path / "generator.safetensors", meta=RECIPE)
    save_model(small_encoder(), tmp_path / "encoder.safetensors", meta=RECIPE)
    return tmp_path


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Change header fields and tensors of a saved file, leaving the digest as it was."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    fields = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["legato"])
    tensors = load_file(path)
    change(fields, tensors)
    save_file(tensors, path, metadata={"legato": json.dumps(fields)})


def test_generator_round_trip(saved: Path) -> None:
    original, loaded = golden_generator(), load_generator(saved / "generator.safetensors")
    assert loaded.config == CONFIG
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, tensor in original.state_dict().items():
        stored = loaded.state_dict()[name]
        assert stored.dtype == torch.float32
        assert torch.equal(stored, tensor.half().float()), name
    image, again = original(original.map(golden_z())), loaded(loaded.map(golden_z()))
    assert 0 < (image - again).abs().max() < HALF_STORAGE * image.std()


def test_encoder_round_trip_in_float32_is_exact(tmp_path: Path) -> None:
    encoder, path = small_encoder(), tmp_path / "e.safetensors"
    save_model(encoder, path, meta={}, dtype=torch.float32)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(load_encoder(path)(images), encoder(images))


def test_a_file_saved_again_is_the_same_file(saved: Path, tmp_path: Path) -> None:
    path, copy = saved / "generator.safetensors", tmp_path / "copy.safetensors"
    loaded = load_generator(path)
    header = save_model(loaded, copy, meta=read_header(path).recipe)
    assert copy.read_bytes() == path.read_bytes()
    assert header.digest == loaded.digest == read_header(copy).digest


def test_header_and_digest(saved: Path) -> None:
    header = read_header(saved / "encoder.safetensors")
    assert header.kind == "encoder"
    assert header.recipe == RECIPE
    assert header.config["w_dim"] == 16
    assert len(header.digest) == 64
    generator = golden_generator()
    generator.w_avg[0] += 1
    changed = save_model(generator, saved / "other.safetensors", meta=RECIPE)
    assert changed.digest != read_header(saved / "generator.safetensors").digest


def test_loading_draws_no_random_numbers(saved: Path) -> None:
    before = torch.get_rng_state()
    load_generator(saved)
    load_encoder(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_folders_and_names(saved: Path) -> None:
    assert load_generator(saved).digest == load_generator(str(saved / "generator.safetensors")).digest
    assert load_encoder(saved).config.num_layers == 10
    with pytest.raises(ModelFileError, match=r"no model is named 'heads-9000'.*packaged models: .*Give one of these"):
        load_generator("heads-9000")


def test_saving_is_whole_or_not_at_all(saved: Path) -> None:
    path = saved / "generator.safetensors"
    before = path.read_bytes()
    generator = golden_generator()
    generator.w_avg[3] = 1e6  # finite in float32, infinite in float16
    with pytest.raises(ModelFileError, match=r"'mapping.w_avg' holds values that are not finite in torch.float16"):
        save_model(generator, path, meta={})
    assert path.read_bytes() == before
    assert sorted(p.name for p in saved.iterdir()) == ["encoder.safetensors", "generator.safetensors"]
    save_model(generator, path, meta={}, dtype=torch.float32)
    assert load_generator(path).w_avg[3] == 1e6


def refusal(path: Path) -> str:
    """What load_generator says; it names the file."""
    with pytest.raises(ModelFileError) as caught:
        load_generator(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing(saved: Path) -> None:
    assert "there is nothing of that name" in refusal(saved / "none.safetensors")
    (saved / "hollow").mkdir()
    with pytest.raises(ModelFileError, match=r"hollow/generator\.safetensors: there is nothing"):
        load_generator(saved / "hollow")
    (saved / "hollow" / "generator.safetensors").mkdir()
    with pytest.raises(ModelFileError, match="there is a folder of that name"):
        load_generator(saved / "hollow")


@pytest.mark.parametrize("keep", [0, 7, 100, 4000])
def test_truncated(saved: Path, keep: int) -> None:
    path = saved / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "cannot be read as safetensors" in refusal(path)


def test_not_safetensors(saved: Path) -> None:
    path = saved / "generator.safetensors"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    assert "damaged, incomplete or of another format" in refusal(path)


def test_one_flipped_bit(saved: Path) -> None:
    path = saved / "generator.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert "is damaged: its weights have the digest" in refusal(path)


def test_wrong_kind(saved: Path) -> None:
    path = saved / "encoder.safetensors"
    assert "holds weights of kind 'encoder'; 'generator' was wanted" in refusal(path)
    shutil.copy(saved / "generator.safetensors", path)
    with pytest.raises(ModelFileError, match="of kind 'generator'; 'encoder' was wanted"):
        load_encoder(saved)


def test_safetensors_of_somebody_else(saved: Path) -> None:
    path = saved / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert "holds no StyleGAN2 network under names that legato knows (safetensors)" in refusal(path)
    with pytest.raises(ModelFileError, match="holds no StyleGAN2 network under names that legato knows"):
        load_encoder(path)
    with pytest.raises(ModelFileError, match="without legato's header"):
        read_header(path)


def set_version(fields: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    fields["version"] = 2


def drop_config(fields: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    del fields["config"]


def add_to_config(fields: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    fields["config"]["attention"] = True


def grow_resolution(fields: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    fields["config"]["resolution"] = 32


def odd_resolution(fields: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    fields["config"]["resolution"] = 17


def narrow(fields: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    fields["config"]["channel_max"] = 8


def shrink_resolution(fields: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    fields["config"]["resolution"] = 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_version, "version 2; this legato reads 'legato' version 1"),
        (drop_config, "damaged header (KeyError: 'config')"),
        (add_to_config, "does not describe a generator"),
        (odd_resolution, "a power of two of at least 8; got 17"),
        (grow_resolution, "is missing"),
        (shrink_resolution, "is not known"),
        (narrow, "where [8, 4, 4] was wanted"),
    ],
)
def test_header_that_does_not_fit(
    saved: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None], words: str
) -> None:
    path = saved / "generator.safetensors"
    rewrite(path, change)
    assert words in refusal(path)


def test_resolve_leaves_paths_alone(tmp_path: Path) -> None:
    assert resolve(tmp_path / "x.safetensors", "generator.safetensors") == tmp_path / "x.safetensors"
    assert resolve(tmp_path, "generator.safetensors") == tmp_path / "generator.safetensors"
