"""pSp's and e4e's checkpoints: the decoder is a generator, the encoder is handed on as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from legato.errors import ModelFileError
from legato.models import load_generator
from legato.models.formats import open_checkpoint
from tests.models.formats.nets import CONFIG, pictures, random_generator
from tests.models.formats.writers import psp
from tests.tolerances import PARITY


@pytest.mark.parametrize("rows", [CONFIG.num_layers, 1])
def test_the_decoder_comes_back(tmp_path: Path, rows: int) -> None:
    original, path = random_generator(), tmp_path / "psp.pt"
    torch.save(psp(original, original.w_avg.repeat(rows, 1)), path)
    loaded = load_generator(path)
    assert torch.equal(loaded.w_avg, original.w_avg)
    torch.testing.assert_close(pictures(loaded), pictures(original), **PARITY)


def test_the_encoder_is_handed_on(tmp_path: Path) -> None:
    original, path = random_generator(), tmp_path / "e4e.pt"
    saved = psp(original, original.w_avg.repeat(8, 1), start_from_latent_avg=True, device=torch.device("cpu"), lr=1e-4)
    torch.save({**saved, "optimizer": {"state": {}}}, path, _use_new_zipfile_serialization=False)
    with open_checkpoint(path) as (_, checkpoint):
        encoder = checkpoint.encoder
        assert encoder is not None
        assert encoder.options == {"output_size": 32, "start_from_latent_avg": True, "lr": 1e-4}
        assert set(encoder.tensors) == {"input_layer.0.weight", "styles.0.linear.bias"}
        name = "styles.0.linear.bias"
        assert torch.equal(encoder.tensors[name].read(), saved["state_dict"][f"encoder.{name}"])
        assert encoder.latent_avg is not None
        assert encoder.latent_avg.read().shape == (8, 12)
        assert checkpoint.others == ("optimizer",)


def test_what_is_neither(tmp_path: Path) -> None:
    path, saved = tmp_path / "psp.pt", psp(random_generator(), None)
    saved["state_dict"]["classifier.weight"] = torch.zeros(3)
    torch.save(saved, path)
    with pytest.raises(ModelFileError, match=r"'classifier\.weight', which belongs to neither encoder nor decoder"):
        load_generator(path)
    torch.save(psp(random_generator(), None) | {"latent_avg": "text"}, path)
    with pytest.raises(ModelFileError, match="its latent_avg is no tensor"):
        load_generator(path)


def test_an_encoder_alone(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    torch.save({"state_dict": {"encoder.input_layer.0.weight": torch.zeros(4, 3, 3, 3)}}, path)
    with pytest.raises(ModelFileError, match="holds no generator"):
        load_generator(path)
