"""A bare state dict under NVIDIA's names, whatever holds it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from legato.errors import ModelFileError
from legato.models import load_generator
from tests.models.formats.nets import pictures, random_generator
from tests.models.formats.writers import nvidia_state


def contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ""])
def test_the_same_generator_comes_back(tmp_path: Path, suffix: str) -> None:
    original, path = random_generator(), tmp_path / f"network{suffix}"
    state = contiguous(nvidia_state(original))
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path, metadata={"from": "elsewhere"})
    loaded = load_generator(path)
    assert torch.equal(pictures(loaded), pictures(original))
    assert len(loaded.digest) == 64


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    path, state = tmp_path / "network.safetensors", contiguous(nvidia_state(random_generator()))
    state["synthesis.b8.torgb.bias"] = torch.zeros(4)
    save_file(state, path)
    with pytest.raises(ModelFileError, match=r"synthesis\.b8\.torgb\.bias is \[4\] where \[3\] was wanted"):
        load_generator(path)
    del state["synthesis.b4.const"], state["mapping.fc1.bias"]
    save_file(state | {"synthesis.b4.const": torch.zeros(16, 4, 4)}, path)
    with pytest.raises(ModelFileError, match=r"mapping\.fc1\.bias is missing; "):
        load_generator(path)
