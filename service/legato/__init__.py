"""legato: real-time inversion of consecutive video frames into the latent space of a StyleGAN2 generator."""

__version__ = "0.1.0"
