"""Published encoders of StyleGAN2, as they are: pixel2style2pixel and encoder4editing."""

from legato.models.encoders.style_encoder import StyleEncoder, StyleEncoderConfig

__all__ = ["StyleEncoder", "StyleEncoderConfig"]
