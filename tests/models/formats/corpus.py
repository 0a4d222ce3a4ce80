"""One sound file of every kind, small, for mutation."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from legato.models import Encoder, EncoderConfig, GeneratorConfig, ResidualEncoder, save_model
from tests.models.formats.nets import random_discriminator, random_generator
from tests.models.formats.test_genforce import genforce_state
from tests.models.formats.writers import nvidia_state, psp, rosinality_state, rosinality_training, write_nvidia

TINY = GeneratorConfig(8, z_dim=4, w_dim=4, mapping_layers=1, channel_base=32, channel_max=4)


def write_corpus(folder: Path) -> list[Path]:
    generator, discriminator = random_generator(TINY), random_discriminator(TINY)
    write_nvidia(folder / "nvidia.pkl", generator, discriminator)
    for name, zipped in (("zip", True), ("legacy", False)):
        plain = {"g_ema": rosinality_state(generator), "latent_avg": generator.w_avg}
        torch.save(plain, folder / f"rosinality_{name}.pt", _use_new_zipfile_serialization=zipped)
        training = rosinality_training(generator, discriminator)
        torch.save(training, folder / f"training_{name}.pt", _use_new_zipfile_serialization=zipped)
    torch.save(psp(generator, generator.w_avg.repeat(4, 1)), folder / "psp.pt")
    torch.save({"generator_smooth": genforce_state(generator)}, folder / "genforce.pth")
    state = {name: tensor.contiguous().clone() for name, tensor in nvidia_state(generator).items()}
    save_file(state, folder / "state.safetensors")
    save_model(generator, folder / "own.safetensors", meta={"license": "CC0-1.0"}, dtype=torch.float32)
    config = EncoderConfig(64, 10, w_dim=4, channel_base=128, channel_max=8, pyramid_channels=4)
    save_model(Encoder(config), folder / "encoder.safetensors", meta={})
    save_model(ResidualEncoder(config), folder / "residual.safetensors", meta={})
    return sorted(folder.iterdir())
