"""A small real model of random weights, and streams of frames that its generator can make."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from legato.editing.directions import Directions
from legato.models import Encoder, EncoderConfig, Generator, GeneratorConfig
from legato.types import DirectionInfo, Edit, Frame

SIDE, LAYERS, DIM = 64, 10, 32
SMILE = (Edit("smile", 1.5),)
OVERFLOW = (Edit("overflow", 10.0),)  # leaves the range of float32


@dataclass(frozen=True)
class Model:
    generator: Generator
    encoder: Encoder
    directions: Directions


def small_model(seed: int = 0) -> Model:
    """64 px, L = 10, D = 32; the layers of a code differ, and the noise shows, as in a trained model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = GeneratorConfig(SIDE, z_dim=DIM, w_dim=DIM, mapping_layers=2, channel_base=1024, channel_max=32)
        generator = Generator(sizes)
        encoder = Encoder(EncoderConfig(SIDE, LAYERS, w_dim=DIM, channel_base=512, channel_max=16, pyramid_channels=12))
        with torch.no_grad():
            encoder.offset_weight.normal_()
            for name, strength in generator.named_parameters():
                if name.endswith("noise_strength"):
                    strength.fill_(0.05)
        vectors = {"smile": torch.randn(LAYERS, DIM) * 0.3, "overflow": torch.full((LAYERS, DIM), 3e38)}
    infos = {name: DirectionInfo(name, f"more {name}", response=2.0, leakage=0.1) for name in vectors}
    return Model(generator.eval(), encoder.eval(), Directions(vectors, infos, generator_digest=""))


@torch.no_grad()
def stream(model: Model, length: int, seed: int = 0) -> list[Frame]:
    """Consecutive frames of one scene: a code that moves slowly, drawn by the generator."""
    draw = torch.Generator().manual_seed(seed)
    code = torch.randn(1, LAYERS, DIM, generator=draw)
    motion = torch.randn(1, 1, DIM, generator=draw) * 0.15
    frames = []
    for t in range(length):
        image = model.generator(code + math.sin(0.4 * t) * motion)[0]
        frames.append(Frame(to_pixels(image)))
    return frames


def to_pixels(image: Tensor) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """uint8 [R, R, 3] of an image [3, R, R] in [-1, 1]."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def to_image(frame: Frame) -> Tensor:
    """[1, 3, R, R] in [-1, 1]."""
    return torch.from_numpy(frame.pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
