"""StyleGAN2 training on images alone (Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN").

Non-saturating logistic loss, R1 every 16 steps and path length regularization every 4, each as an optimizer step of its
own (lazy regularization, section 3.1), mixing of styles, and an average of the generator's weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from legato.models.discriminator import Discriminator
from legato.models.generator import Generator, GeneratorConfig
from legato.synthetic.dataset import Heads
from legato.train.adversarial import R1_INTERVAL, discriminator_loss, fool, r1_penalty
from legato.train.state import Ema
from legato.train.training import Precision, Stateful, Training, Values, dtype_of

PATH_INTERVAL = 4  # steps
PATH_WEIGHT = 2.0
PATH_DECAY = 0.01
PATH_SHRINK = 2  # the penalty is measured on a batch this much smaller
W_AVG_DECAY = 0.998
SHEET = 32  # samples on the grid
SHEET_TRUNCATION = 0.7


@dataclass(frozen=True, slots=True)
class GanConfig:
    """Options of a GAN training."""

    generator: GeneratorConfig
    discriminator_base: int  # channel_base of the discriminator
    images: int  # real images to see
    batch: int = 32
    rate: float = 2e-3
    r1_gamma: float = 1.0
    mixing: float = 0.9  # share of samples made of two w
    ema_images: float = 10_000  # half life
    precision: Precision = "bfloat16"
    seed: int = 1
    checkpoint_seconds: float = 240


class PathLength(nn.Module):
    """Path length regularization (section 3.2, eq. 4), with its running mean of lengths."""

    mean: Tensor

    def __init__(self, decay: float = PATH_DECAY) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, image: Tensor, latents: Tensor) -> Tensor:
        """Mean of (|J^T y| - a)^2 for image [B, 3, R, R] made from latents [B, L, D], y noise of deviation 1/R.

        The length is the root of the mean over layers of the sum of squares; a is its moving average.
        """
        y = torch.randn_like(image) / math.sqrt(image.shape[2] * image.shape[3])
        (gradient,) = torch.autograd.grad((image * y).sum(), latents, create_graph=True)
        lengths = gradient.square().sum(2).mean(1).sqrt()
        mean = self.mean.lerp(lengths.mean(), self.decay)
        self.mean.copy_(mean.detach())
        penalty: Tensor = (lengths - mean).square().mean()
        return penalty


def mix_styles(w: Tensor, other: Tensor, layers: int, share: float, random: torch.Generator) -> Tensor:
    """w, other [B, D] -> latents [B, L, D]: w up to a layer drawn for each sample, and the other w from there on.

    A sample is mixed with probability `share`, else it is w alone (Karras et al. 2019, section 3.1).
    """
    batch = len(w)
    crossover = torch.randint(1, layers, (batch, 1), generator=random)
    mixed = torch.rand(batch, 1, generator=random) < share
    takes_other = (mixed & (torch.arange(layers) >= crossover)).to(w.device)
    return torch.where(takes_other[:, :, None], other[:, None], w[:, None])


def lazy_adam(parameters: Iterable[nn.Parameter], rate: float, interval: int) -> torch.optim.Adam:
    """Adam(0, 0.99), slowed for one regularization step beside every `interval` others: c = interval / (interval + 1)
    multiplies the rate and is the exponent of the betas (Karras et al. 2020, appendix B)."""
    c = interval / (interval + 1)
    return torch.optim.Adam(parameters, lr=rate * c, betas=(0.0, 0.99**c), eps=1e-8, fused=True)


class GanTraining(Training):
    """One GAN training in a folder; `read` gives the images and may give more of them later."""

    def __init__(self, config: GanConfig, folder: Path, read: Callable[[], Heads], device: str = "cpu") -> None:
        super().__init__(folder, config.images, config.seed, device, config.checkpoint_seconds)
        self.config, self.read, self.data = config, read, read()
        dtype = dtype_of(config.precision)
        self.generator = Generator(config.generator, autocast_dtype=dtype).to(self.device)
        self.average = Generator(config.generator, autocast_dtype=dtype).to(self.device)
        narrow = GeneratorConfig(**{**asdict(config.generator), "channel_base": config.discriminator_base})
        self.discriminator = Discriminator(narrow, autocast_dtype=dtype).to(self.device)
        self.path_length = PathLength().to(self.device)
        self.emas = [Ema(self.generator, self.average, config.ema_images)]
        self.optimizer = lazy_adam(self.generator.parameters(), config.rate, PATH_INTERVAL)
        self.d_optimizer = lazy_adam(self.discriminator.parameters(), config.rate, R1_INTERVAL)
        self.sheet_z = torch.randn(SHEET, config.generator.z_dim, generator=torch.Generator().manual_seed(config.seed))
        self.resume()

    def parts(self) -> Mapping[str, Stateful]:
        return {
            "generator": self.generator,
            "average": self.average,
            "discriminator": self.discriminator,
            "path_length": self.path_length,
            "optimizer": self.optimizer,
            "d_optimizer": self.d_optimizer,
        }

    def pictures(self) -> Sequence[Tensor]:
        latents = self.average.map(self.sheet_z.to(self.device), SHEET_TRUNCATION)
        return [self.average(row) for row in latents.split(8)]

    def refresh(self) -> None:
        self.data = self.read()

    def step(self) -> tuple[int, Values]:
        values = dict(self._generator_step())
        if self.steps % PATH_INTERVAL == 0:
            values |= self._path_step()
        real, _ = self.data.batch(
            torch.randint(len(self.data), (self.config.batch,), generator=self.random).sort().values, self.device
        )
        values |= self._discriminator_step(real)
        if self.steps % R1_INTERVAL == 0:
            values |= self._r1_step(real)
        return self.config.batch, values

    def _generator_step(self) -> Values:
        w, latents = self._latents(self.config.batch)
        self.generator.w_avg.copy_(w.detach().mean(0).lerp(self.generator.w_avg, W_AVG_DECAY))
        loss = fool(self.discriminator, self.generator(latents, "random"))
        _descend(self.optimizer, loss)
        return {"fooled": loss.detach()}

    def _path_step(self) -> Values:
        _, latents = self._latents(max(1, self.config.batch // PATH_SHRINK))
        penalty = self.path_length(self.generator(latents, "random"), latents)
        _descend(self.optimizer, penalty * PATH_WEIGHT * PATH_INTERVAL)
        return {"path": penalty.detach()}

    def _discriminator_step(self, real: Tensor) -> Values:
        with torch.no_grad():
            fake = self.generator(self._latents(self.config.batch)[1], "random")
        real_scores, fake_scores = self.discriminator(real), self.discriminator(fake)
        _descend(self.d_optimizer, discriminator_loss(real_scores, fake_scores))
        return {"real": real_scores.detach().mean(), "fake": fake_scores.detach().mean()}

    def _r1_step(self, real: Tensor) -> Values:
        penalty = r1_penalty(self.discriminator, real)
        _descend(self.d_optimizer, penalty * (self.config.r1_gamma / 2 * R1_INTERVAL))
        return {"r1": penalty.detach()}

    def _latents(self, count: int) -> tuple[Tensor, Tensor]:
        """w [B, D] of fresh z, and latents [B, L, D] in which it is mixed with another."""
        z = torch.randn(2 * count, self.config.generator.z_dim, generator=self.random).to(self.device)
        w, other = self.generator.mapping(z).chunk(2)
        return w, mix_styles(w, other, self.generator.num_layers, self.config.mixing, self.random)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
