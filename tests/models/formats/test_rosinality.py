"""rosinality's checkpoints: plain and from the middle of a training, in both containers of torch.save."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from legato.errors import ModelFileError
from legato.models import load_discriminator, load_generator
from legato.models.formats import open_checkpoint
from tests.models.formats.nets import pictures, random_discriminator, random_generator, scores
from tests.models.formats.writers import rosinality_state, rosinality_training
from tests.tolerances import ESTIMATED_W_AVG, PARITY


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["g_ema", "g"])
def test_the_same_generator_comes_back(tmp_path: Path, key: str, zipped: bool) -> None:
    original, path = random_generator(), tmp_path / "network.pt"
    saved = {key: rosinality_state(original), "latent_avg": original.w_avg}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    loaded = load_generator(path)
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    torch.testing.assert_close(pictures(loaded), pictures(original), **PARITY)


def test_a_bare_state_dict_in_half_precision(tmp_path: Path) -> None:
    original, path = random_generator(), tmp_path / "network.pt"
    torch.save({name: tensor.half() for name, tensor in rosinality_state(original).items()}, path)
    loaded, name = load_generator(path), "synthesis.b8.conv0.weight"
    assert torch.equal(loaded.state_dict()[name], original.state_dict()[name].half().float())
    assert loaded.w_avg.dtype == torch.float32


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint(tmp_path: Path, zipped: bool) -> None:
    original, discriminator, path = random_generator(), random_discriminator(), tmp_path / "550000.pt"
    torch.save(rosinality_training(original, discriminator), path, _use_new_zipfile_serialization=zipped)
    with open_checkpoint(path) as (content, checkpoint):
        assert checkpoint.others == ("ada_aug_p", "args", "d_optim", "g", "g_optim")
        assert checkpoint.generator is not None
        assert "without latent_avg" in checkpoint.generator.notes[0]
        assert content.tree["args"]["iter"] == 800000
        assert content.tree["g_optim"]["param_groups"][0]["betas"] == (0.0, 0.99)
    loaded = load_generator(path)
    z = torch.randn(100_000, original.config.z_dim)
    torch.testing.assert_close(loaded.w_avg, original.mapping(z).mean(dim=0), **ESTIMATED_W_AVG)
    assert torch.equal(loaded.w_avg, load_generator(path).w_avg)
    assert torch.equal(scores(load_discriminator(path)), scores(discriminator))


def changed(state: dict[str, Tensor], name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    kept = {key: value for key, value in state.items() if key != name}
    return kept if tensor is None else kept | {name: tensor}


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("convs.3.noise.weight", None, "convs.3.noise.weight is missing"),
        ("convs.1.conv.extra", torch.zeros(3), "convs.1.conv.extra is not known"),
        ("conv1.activate.bias", torch.zeros(15), r"conv1.activate.bias .* is \[15\] where \[16\] was wanted"),
        ("to_rgb1.bias", torch.zeros(1, 4, 1, 1), r"is \[4\] where \[3\] was wanted"),
        ("input.input", torch.zeros(2, 16, 4, 4), r"is \[2, 16, 4, 4\] where \[16, 4, 4\] was wanted"),
        ("conv1.activate.bias", torch.zeros(16, dtype=torch.int64), "torch.int64 where floating-point numbers"),
        ("style.1.bias", torch.full((12,), torch.nan), "style.1.bias holds values that are not finite"),
        ("convs.0.conv.blur.kernel", torch.ones(4, 4) / 4, "resamples by another filter"),
        ("convs.0.conv.blur.kernel", torch.ones(6, 6), r"is \[6, 6\] where a filter of \[4, 4\] was wanted"),
        ("convs.7.conv.weight", torch.zeros(1, 8, 8, 3, 3), "is not known"),
    ],
)
def test_every_tensor_counts(tmp_path: Path, name: str, tensor: Tensor | None, words: str) -> None:
    path = tmp_path / "network.pt"
    torch.save({"g_ema": changed(rosinality_state(random_generator()), name, tensor)}, path)
    with pytest.raises(ModelFileError, match=words):
        load_generator(path)


def test_no_discriminator(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save({"g_ema": rosinality_state(random_generator())}, path)
    with pytest.raises(ModelFileError, match="holds no discriminator"):
        load_discriminator(path)
