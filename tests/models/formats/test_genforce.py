"""GenForce's checkpoints: up-convolutions turned around, styles without their 1."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from legato.errors import ModelFileError
from legato.models import Generator, load_generator
from legato.models.formats import open_checkpoint
from tests.models.formats.nets import CONFIG, pictures, random_generator
from tests.models.formats.writers import FIR, layer_of
from tests.tolerances import PARITY


def genforce_state(generator: Generator) -> dict[str, Tensor]:
    """The state dict of its StyleGAN2Generator."""
    state: dict[str, Tensor] = {"synthesis.upsample.kernel": 4 * FIR[None, None]}
    for name, tensor in generator.state_dict().items():
        part = name.rpartition(".")[2]
        prefix = ""
        if ".conv" in name:
            prefix = f"synthesis.layer{layer_of(name)}"
        elif ".torgb." in name:
            prefix = f"synthesis.output{int(name.split('.')[1][1:]).bit_length() - 3}"
        if ".affine." in name:
            state[f"{prefix}.style.{part}"] = tensor - 1 if part == "bias" else tensor
        elif part == "noise_const":
            state[f"{prefix}.noise"] = tensor[None, None]
        elif ".conv0.weight" in name:
            state[f"{prefix}.weight"] = tensor.flip(2).flip(3)
            state[f"{prefix}.filter.kernel"] = 4 * FIR
        elif prefix:
            state[f"{prefix}.{part}"] = tensor
        elif name.startswith("mapping.fc"):
            state[name.replace("fc", "dense")] = tensor
    state["synthesis.early_layer.const"] = generator.state_dict()["synthesis.b4.const"][None]
    return state | {"truncation.w_avg": generator.w_avg}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["generator_smooth", "generator"])
def test_the_same_generator_comes_back(tmp_path: Path, key: str, zipped: bool) -> None:
    original, path = random_generator(), tmp_path / "network.pth"
    others = {"discriminator": {"weight": torch.zeros(3)}, "iter": 5}
    torch.save({key: genforce_state(original), **others}, path, _use_new_zipfile_serialization=zipped)
    loaded = load_generator(path)
    assert loaded.config.channels(32) == CONFIG.channels(32)
    torch.testing.assert_close(pictures(loaded), pictures(original), **PARITY)
    with open_checkpoint(path) as (_, checkpoint):
        assert checkpoint.format == "GenForce"
        assert checkpoint.others == ("discriminator", "iter")


@pytest.mark.parametrize("name", ["truncation.w_avg", "synthesis.layer3.filter.kernel", "synthesis.output1.style.bias"])
def test_every_tensor_counts(tmp_path: Path, name: str) -> None:
    path, state = tmp_path / "network.pth", genforce_state(random_generator())
    left = {key: value for key, value in state.items() if key != name}
    for changed, words in ((left, f"{name} is missing"), (state | {"synthesis.lod": torch.zeros(())}, "is not known")):
        torch.save({"generator_smooth": changed}, path)
        with pytest.raises(ModelFileError, match=words):
            load_generator(path)
