"""StyleGAN2 training on images alone (Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN").

Non-saturating logistic loss, R1 every 16 steps and path length regularization every 4, each as an optimizer step of its
own (lazy regularization, section 3.1), mixing of styles, and an average of the generator's weights. Few images are made
to last by adaptive augmentation of what the discriminator sees (`augment`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from legato.models.discriminator import Discriminator
from legato.models.generator import Generator, GeneratorConfig
from legato.synthetic.dataset import Heads
from legato.train.adversarial import R1_INTERVAL, discriminator_loss, fool, r1_penalty
from legato.train.augment import INTERVAL, RISE_IMAGES, AdaptiveAugment
from legato.train.processes import ALONE, Group
from legato.train.sliced import sliced_distance
from legato.train.state import Ema
from legato.train.training import Precision, Stateful, Training, Values, chunks, dtype_of

PATH_INTERVAL = 4  # steps
PATH_WEIGHT = 2.0
PATH_DECAY = 0.01
PATH_SHRINK = 2  # the penalty is measured on a batch this much smaller
W_AVG_DECAY = 0.998
SHEET = 32  # samples on the grid
SHEET_TRUNCATION = 0.7
JUDGED = 256  # images of each kind that figures are measured on, at most


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
    ada_target: float = 0.0  # of r_t; 0: nothing is augmented
    ada_images: int = RISE_IMAGES
    precision: Precision = "bfloat16"
    seed: int = 1
    checkpoint_seconds: float = 240


class Scored(NamedTuple):
    """Images [N, 3, R, R] and the mean of the scores that they got."""

    images: Tensor
    score: float


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
    """One GAN training in a folder; `read` gives the images and may give more of them later.

    `held_out` are images that the discriminator never learns from: how much less it likes them is how far it overfits.
    """

    def __init__(
        self,
        config: GanConfig,
        folder: Path,
        read: Callable[[], Heads],
        device: str = "cpu",
        *,
        held_out: Heads | None = None,
        group: Group = ALONE,
    ) -> None:
        super().__init__(folder, config.images, config.seed, device, config.checkpoint_seconds, group)
        group.check(config.batch)
        self.config, self.read, self.data, self.held_out = config, read, read(), held_out
        dtype = dtype_of(config.precision)
        self.generator = Generator(config.generator, autocast_dtype=dtype).to(self.device)
        self.average = Generator(config.generator, autocast_dtype=dtype).to(self.device)
        narrow = GeneratorConfig(**{**asdict(config.generator), "channel_base": config.discriminator_base})
        self.discriminator = Discriminator(narrow, autocast_dtype=dtype).to(self.device)
        self.path_length = PathLength().to(self.device)
        self.augment = AdaptiveAugment(config.ada_target, config.ada_images, group).to(self.device)
        self.emas = [Ema(self.generator, self.average, config.ema_images)]
        self.optimizer = lazy_adam(self.generator.parameters(), config.rate, PATH_INTERVAL)
        self.d_optimizer = lazy_adam(self.discriminator.parameters(), config.rate, R1_INTERVAL)
        group.follow(self.optimizer, self.d_optimizer)
        self.sheet_z = torch.randn(SHEET, config.generator.z_dim, generator=torch.Generator().manual_seed(config.seed))
        self.resume()

    def parts(self) -> Mapping[str, Stateful]:
        return {
            "generator": self.generator,
            "average": self.average,
            "discriminator": self.discriminator,
            "path_length": self.path_length,
            "augment": self.augment,
            "optimizer": self.optimizer,
            "d_optimizer": self.d_optimizer,
        }

    def pictures(self) -> Sequence[Tensor]:
        latents = self.average.map(self.sheet_z.to(self.device), SHEET_TRUNCATION)
        return [self.average(row) for row in latents.split(8)]

    def figures(self) -> dict[str, float]:
        """p of the augmentation; the sliced Wasserstein distance of samples to images; with held-out images, r_v.

        r_v = (D(train) - D(held out)) / (D(train) - D(made)), means of scores (Karras et al. 2020, "limited data", eq.
        1): 0 where the discriminator generalizes, 1 where it knows the images by heart. Nothing is augmented in it.
        """
        random = torch.Generator().manual_seed(self.seed)
        count = min(JUDGED, len(self.data))
        real = self._scored(self.data, torch.randperm(len(self.data), generator=random)[:count])
        z = torch.randn(count, self.config.generator.z_dim, generator=random).to(self.device)
        made = torch.cat([self.average(self.average.map(part)).clamp(-1, 1) for part in z.split(16)])
        found = {"p": float(self.augment.p), "swd": sliced_distance(made, real.images)}
        if self.held_out is not None:
            kept = torch.randperm(len(self.held_out), generator=random)[:JUDGED]
            scores = self._scored(self.held_out, kept).score
            fake = float(torch.cat([self.discriminator(part) for part in made.split(16)]).mean())
            found["r_v"] = (real.score - scores) / (real.score - fake)
        return found

    def _scored(self, data: Heads, index: Tensor) -> Scored:
        images = [data.batch(index[rows], self.device)[0] for rows in chunks(len(index), 16)]
        return Scored(torch.cat(images), float(torch.cat([self.discriminator(part) for part in images]).mean()))

    def refresh(self) -> None:
        self.data = self.read()

    def step(self) -> tuple[int, Values]:
        values = dict(self._generator_step())
        if self.steps % PATH_INTERVAL == 0:
            values |= self._path_step()
        index = torch.randint(len(self.data), (self.config.batch,), generator=self.random).sort().values
        real, _ = self.data.batch(self.group.share(index), self.device)
        values |= self._discriminator_step(real)
        if self.steps % R1_INTERVAL == 0:
            values |= self._r1_step(real)
        if self.steps % INTERVAL == INTERVAL - 1:
            values["r_t"] = self.augment.adapt()
        return self.config.batch, values

    def _generator_step(self) -> Values:
        w, latents = self._latents(self.config.batch)
        self.generator.w_avg.copy_(self.group.mean_(w.detach().mean(0)).lerp(self.generator.w_avg, W_AVG_DECAY))
        loss = fool(self.discriminator, self.generator(latents, "random"), self.augment)
        _descend(self.optimizer, loss)
        return {"fooled": loss.detach()}

    def _path_step(self) -> Values:
        _, latents = self._latents(max(self.group.size, self.config.batch // PATH_SHRINK))
        penalty = self.path_length(self.generator(latents, "random"), latents)
        self.group.mean_(self.path_length.mean)
        _descend(self.optimizer, penalty * PATH_WEIGHT * PATH_INTERVAL)
        return {"path": penalty.detach()}

    def _discriminator_step(self, real: Tensor) -> Values:
        with torch.no_grad():
            fake = self.generator(self._latents(self.config.batch)[1], "random")
        real_scores, fake_scores = self.discriminator(self.augment(real)), self.discriminator(self.augment(fake))
        self.augment.observe(real_scores)
        _descend(self.d_optimizer, discriminator_loss(real_scores, fake_scores))
        return {"real": real_scores.detach().mean(), "fake": fake_scores.detach().mean()}

    def _r1_step(self, real: Tensor) -> Values:
        penalty = r1_penalty(self.discriminator, real, self.augment)
        _descend(self.d_optimizer, penalty * (self.config.r1_gamma / 2 * R1_INTERVAL))
        return {"r1": penalty.detach()}

    def _latents(self, count: int) -> tuple[Tensor, Tensor]:
        """w [B, D] of this process's share of `count` fresh z, and latents [B, L, D] mixed from it and others."""
        z = torch.randn(2, count, self.config.generator.z_dim, generator=self.random)
        mine = torch.cat([self.group.share(part) for part in z]).to(self.device)
        w, other = self.generator.mapping(mine).chunk(2)
        return w, mix_styles(w, other, self.generator.num_layers, self.config.mixing, self.random)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
