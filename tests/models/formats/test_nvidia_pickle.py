"""NVIDIA's pickles: an emulated writer whose files hold source code, which nobody runs."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from legato.errors import ModelFileError
from legato.models import load_discriminator, load_generator
from legato.models.formats import open_checkpoint
from tests.models.formats.nets import CONFIG, pictures, random_discriminator, random_generator, scores
from tests.models.formats.writers import nvidia_module, nvidia_names, write_nvidia
from tests.tolerances import ESTIMATED_W_AVG, PARITY

CLAMPED = replace(CONFIG, conv_clamp=0.5)


@pytest.mark.parametrize("config", [CONFIG, CLAMPED, replace(CONFIG, resolution=64, mapping_layers=8, w_dim=20)])
def test_the_same_generator_comes_back(tmp_path: Path, config: Any) -> None:
    original = random_generator(config)
    loaded = load_generator(write_nvidia(tmp_path / "network.pkl", original))
    assert loaded.config == replace(config, channel_base=loaded.config.channel_base)
    assert all(loaded.config.channels(r) == config.channels(r) for r in config.resolutions)
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(pictures(loaded), pictures(original))


def test_the_discriminator_too_with_its_clamp(tmp_path: Path) -> None:
    original = random_discriminator(CLAMPED)
    path = write_nvidia(tmp_path / "network.pkl", random_generator(CLAMPED), original)
    loaded = load_discriminator(path)
    assert loaded.config.conv_clamp == 0.5
    torch.testing.assert_close(scores(loaded), scores(original), **PARITY)
    assert not torch.allclose(scores(loaded), scores(random_discriminator(CONFIG)))


def test_g_ema_is_taken_and_the_rest_is_told(tmp_path: Path) -> None:
    with open_checkpoint(write_nvidia(tmp_path / "network.pkl", random_generator())) as (content, checkpoint):
        assert content.container == "pickle"
        assert checkpoint.others == ("G", "augment_pipe", "training_set_kwargs")
        assert checkpoint.generator is not None
        assert checkpoint.generator.tensors["mapping.w_avg"].name == "G_ema.mapping.w_avg"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"c_dim": 10}, "conditional on 10 labels"),
        ({"mapping.fc1.activation": "relu"}, "a network of activation 'relu'"),
        ({"synthesis.b8.architecture": "resnet"}, "a network of architecture 'resnet'"),
        ({"synthesis.b8.conv0.conv_clamp": 2.0}, "clamps its layers differently"),
        ({"mapping.fc0.bias_gain": "0.01"}, "the mapping network has no learning rate"),
    ],
)
def test_variants_that_cannot_be_built(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    path = write_nvidia(tmp_path / "network.pkl", random_generator(), **changed)
    with pytest.raises(ModelFileError, match=words):
        load_generator(path)


def test_stylegan3_is_named(tmp_path: Path) -> None:
    state = {"synthesis.input.freqs": torch.zeros(4, 2), "synthesis.L0_36_512.weight": torch.zeros(4, 4, 3, 3)}
    with nvidia_names(), (tmp_path / "stylegan3.pkl").open("wb") as file:
        pickle.dump({"G_ema": nvidia_module("Generator", state, {"z_dim": 512})}, file)
    with pytest.raises(ModelFileError, match=r"holds a StyleGAN3 generator.*--cfg=stylegan2"):
        load_generator(tmp_path / "stylegan3.pkl")


def test_without_w_avg_it_is_estimated(tmp_path: Path) -> None:
    original, path = random_generator(), tmp_path / "network.pkl"
    state = {name: tensor for name, tensor in original.state_dict().items() if name != "mapping.w_avg"}
    with nvidia_names(), path.open("wb") as file:
        pickle.dump({"G": nvidia_module("Generator", state, {})}, file)
    wanted = original.mapping(torch.randn(100_000, original.config.z_dim)).mean(dim=0)
    torch.testing.assert_close(load_generator(path).w_avg, wanted, **ESTIMATED_W_AVG)
