"""Networks: the StyleGAN2 generator, its encoder and its discriminator, and their files."""

from legato.models.discriminator import Discriminator
from legato.models.encoder import Encoder, EncoderConfig
from legato.models.files import load_encoder, load_generator, save_model
from legato.models.generator import Features, Generator, GeneratorConfig

__all__ = [
    "Discriminator",
    "Encoder",
    "EncoderConfig",
    "Features",
    "Generator",
    "GeneratorConfig",
    "load_encoder",
    "load_generator",
    "save_model",
]
