"""Networks: the StyleGAN2 generator, its encoder and its discriminator, and their files."""

from legato.models.curvature import Curvature, CurvatureConfig
from legato.models.discriminator import Discriminator
from legato.models.encoder import Encoder, EncoderConfig, ImageEncoder
from legato.models.encoder_files import load_encoder
from legato.models.encoders import StyleEncoder, StyleEncoderConfig
from legato.models.files import load_curvature, load_discriminator, load_generator, load_residual_encoder, save_model
from legato.models.generator import Features, Generator, GeneratorConfig
from legato.models.residual_encoder import ResidualEncoder

__all__ = [
    "Curvature",
    "CurvatureConfig",
    "Discriminator",
    "Encoder",
    "EncoderConfig",
    "Features",
    "Generator",
    "GeneratorConfig",
    "ImageEncoder",
    "ResidualEncoder",
    "StyleEncoder",
    "StyleEncoderConfig",
    "load_curvature",
    "load_discriminator",
    "load_encoder",
    "load_generator",
    "load_residual_encoder",
    "save_model",
]
