"""Deltas: a generator with one is the tuned one to its rounding, the rest is shared, and others refuse it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from legato.errors import ModelFileError
from legato.models import Generator, GeneratorConfig, load_generator, save_model
from legato.models.delta import Delta, load_delta, save_delta, with_delta
from tests.tolerances import EXACT, HALF_STORAGE

CONFIG = GeneratorConfig(16, 8, 8, 2, channel_base=128, channel_max=8)


@pytest.fixture
def base(tmp_path: Path) -> Generator:
    torch.manual_seed(0)
    save_model(Generator(CONFIG), tmp_path / "generator.safetensors", meta={})
    return load_generator(tmp_path)


@pytest.fixture
def tuned(base: Generator) -> Generator:
    found = copy.deepcopy(base)
    for name, parameter in found.synthesis.named_parameters():
        if name.endswith("conv1.weight"):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return found


def test_a_file_brings_back_what_was_tuned(base: Generator, tuned: Generator, tmp_path: Path) -> None:
    header = save_delta(tuned, base, tmp_path / "me.safetensors", recipe={"steps": 3})
    delta = load_delta(tmp_path / "me.safetensors", generator_digest=base.digest)
    assert sorted(delta.differences) == [f"synthesis.b{r}.conv1.weight" for r in (16, 4, 8)]
    assert delta.digest == header.digest
    assert all(t.dtype == torch.float16 for t in delta.differences.values())
    found = with_delta(base, delta)
    latents = torch.randn(2, base.num_layers, 8)
    before, wanted, image = base(latents), tuned(latents), found(latents)
    assert float((image - wanted).abs().max() / wanted.std()) < HALF_STORAGE
    assert float((before - wanted).abs().max() / wanted.std()) > 10 * HALF_STORAGE


def test_what_did_not_move_is_shared_and_the_generator_stays(base: Generator, tuned: Generator, tmp_path: Path) -> None:
    save_delta(tuned, base, tmp_path / "me.safetensors", recipe={})
    weights = {name: t.clone() for name, t in base.state_dict().items()}
    found = with_delta(base, load_delta(tmp_path / "me.safetensors"))
    for name, tensor in base.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], **EXACT)
        assert (found.state_dict()[name].data_ptr() == tensor.data_ptr()) == (not name.endswith("conv1.weight")), name
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())
    assert len({base.digest, found.digest}) == 2
    assert found.digest == with_delta(base, load_delta(tmp_path / "me.safetensors")).digest


def test_another_generator_refuses_it(base: Generator, tuned: Generator, tmp_path: Path) -> None:
    save_delta(tuned, base, tmp_path / "me.safetensors", recipe={})
    with pytest.raises(ModelFileError, match=r"was tuned on the generator .*the one in use is 1111.*legato tune"):
        load_delta(tmp_path / "me.safetensors", generator_digest="1" * 64)
    with pytest.raises(ModelFileError, match="holds weights of kind 'generator'; 'delta' was wanted"):
        load_delta(tmp_path / "generator.safetensors")
    for name, shape, told in [
        ("synthesis.b8.conv9.weight", (1,), "no parameter"),
        ("synthesis.b4.const", (1,), "8, 4, 4"),
    ]:
        with pytest.raises(ModelFileError, match=f"moves {name}.*{told}"):
            with_delta(base, Delta({name: torch.zeros(shape)}, base.digest, ""))
