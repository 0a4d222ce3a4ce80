"""Generator and encoder trained together on images, then made sharp by a discriminator.

An autoencoder E -> W+ -> G finds geometry in minutes where a GAN needs days, and a short adversarial stage on its
reconstructions (the domain-guided encoder's objective, Zhu et al. 2020, eq. 2, with G learning too) makes them sharp
while reconstruction anchors them. A quarter of each batch is decoded from the mean of its layers' codes, so that W,
and not only W+, holds heads; a penalty on the spread over layers keeps W+ near W (as e4e's delta regularizer, Tov et
al. 2021, eq. 4). The loss starts at 16 px and doubles (the skip branch of the same network stops early).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.models.discriminator import Discriminator
from legato.models.encoder import Encoder, EncoderConfig
from legato.models.generator import Generator, GeneratorConfig
from legato.ops import live_backends
from legato.synthetic.dataset import Heads
from legato.train.adversarial import R1_INTERVAL, discriminator_step, fool
from legato.train.augment import INTERVAL, AdaptiveAugment
from legato.train.processes import ALONE, Group
from legato.train.reconstruction import mean_psnr, weighted_reconstruction
from legato.train.state import Ema
from legato.train.training import Precision, Stateful, Training, Values, chunks, cosine, dtype_of, set_rate

R1_GAMMA = 1.0
SINGLE_W_SHARE = 0.25
SHEET = 12
HELD_OUT = 128  # images that figures are measured on, at most


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training: loss resolution, images to see, batch size, adversarial weight (0: none), learning rate.

    With `encoder_alone` it begins from the averages, and the generator stays as it is.
    """

    resolution: int
    images: int
    batch: int
    adversarial: float = 0.0
    rate: float = 2.5e-3
    rate_end: float = 2.5e-3  # reached along a cosine
    encoder_alone: bool = False


HEADS_128 = (  # what the shipped weights were trained with; the images of every phase may be raised
    Phase(16, 40_000, 32),
    Phase(32, 40_000, 32),
    Phase(64, 48_000, 16),
    Phase(128, 48_000, 16, rate_end=1.2e-3),
    Phase(128, 34_000, 16, adversarial=0.1, rate=1.5e-3, rate_end=1e-4),
    Phase(128, 32_000, 16, rate=1e-3, rate_end=2e-5, encoder_alone=True),
)


@dataclass(frozen=True, slots=True)
class JointConfig:
    """Options of a joint training; images are counted over all phases."""

    generator: GeneratorConfig
    encoder: EncoderConfig
    discriminator_base: int = 2048
    phases: Sequence[Phase] = HEADS_128
    spread: float = 0.02
    seed: int = 1
    ema_images: float = 5_000
    checkpoint_seconds: float = 240
    warmup_discriminator_images: int = 2_000
    precision: Precision = "bfloat16"
    ada_target: float = 0.0  # of r_t; 0: nothing is augmented
    ada_images: int = 50_000  # the adversarial stage is short


class JointTraining(Training):
    """One joint training in a folder; `read` gives the images and may give more of them later."""

    def __init__(
        self,
        config: JointConfig,
        folder: Path,
        read: Callable[[], Heads],
        evaluation: Heads,
        device: str = "cpu",
        group: Group = ALONE,
    ) -> None:
        total = sum(math.ceil(phase.images / phase.batch) * phase.batch for phase in config.phases)
        super().__init__(folder, total, config.seed, device, config.checkpoint_seconds, group)
        for phase in config.phases:
            group.check(phase.batch)
        self.config, self.read, self.heads, self.evaluation = config, read, read(), evaluation
        dtype = dtype_of(config.precision)

        def make() -> tuple[Generator, Encoder]:
            generator = Generator(config.generator, autocast_dtype=dtype).to(device)
            return generator, Encoder(config.encoder, autocast_dtype=dtype).to(device)

        self.generator, self.encoder = make()
        narrow = GeneratorConfig(**{**asdict(config.generator), "channel_base": config.discriminator_base})
        self.discriminator = Discriminator(narrow, autocast_dtype=dtype).to(device)
        self.augment = AdaptiveAugment(config.ada_target, config.ada_images, group).to(device)
        averages = make()
        self.emas = [
            Ema(n, a, config.ema_images) for n, a in zip((self.generator, self.encoder), averages, strict=True)
        ]
        self.average_generator, self.average_encoder = averages
        self.phase, self.phase_images = 0, 0
        self._make_optimizers()
        self.resume()

    def _make_optimizers(self) -> None:
        adversarial, alone = self._current.adversarial > 0, self._current.encoder_alone
        # Frozen, it runs the fused ops where they are; in training mode the reference, which is there on every device.
        fused = alone and "missing" not in live_backends(self.device).values()
        self.generator.train(not fused).requires_grad_(not alone)
        learning = [] if alone else list(self.generator.synthesis.parameters())
        learning += self.encoder.parameters()
        self.optimizer = torch.optim.Adam(learning, betas=(0.5 if adversarial else 0.9, 0.99), fused=True)
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=2e-3, betas=(0.0, 0.99), fused=True)
        self.group.follow(self.optimizer, self.d_optimizer)

    @property
    def _current(self) -> Phase:
        return self.config.phases[min(self.phase, len(self.config.phases) - 1)]

    @property
    def finished(self) -> bool:
        return self.phase == len(self.config.phases)

    def parts(self) -> Mapping[str, Stateful]:
        return {
            "generator": self.generator,
            "encoder": self.encoder,
            "discriminator": self.discriminator,
            "augment": self.augment,
            "average_generator": self.average_generator,
            "average_encoder": self.average_encoder,
            "optimizer": self.optimizer,
            "d_optimizer": self.d_optimizer,
        }

    def counts(self) -> tuple[int, ...]:
        return self.images, self.phase, self.phase_images, self.steps

    def set_counts(self, counts: Sequence[int]) -> None:
        self.images, self.phase, self.phase_images, self.steps = counts
        self._make_optimizers()

    def pictures(self) -> Sequence[Tensor]:
        """Input, reconstruction, reconstruction from one w for all layers."""
        x, _ = self.evaluation.batch(torch.arange(min(SHEET, len(self.evaluation))), self.device)
        codes = self.average_encoder(x)
        return [x, self.average_generator(codes, "none"), self.average_generator(single_w(codes, len(x)), "none")]

    def figures(self) -> dict[str, float]:
        """Held-out PSNR in dB at full resolution: through W+, and through one w."""
        found, count = torch.zeros(2), min(HELD_OUT, len(self.evaluation))
        for index in chunks(count, 16):
            x, _ = self.evaluation.batch(index, self.device)
            codes = self.average_encoder(x)
            both = [mean_psnr(self.average_generator(c, "none"), x) for c in (codes, single_w(codes, len(x)))]
            found += torch.tensor(both) * len(x)
        psnr, single = (found / count).tolist()
        return {
            "psnr_db": psnr,
            "single_w_psnr_db": single,
            "phase": min(self.phase, len(self.config.phases) - 1),
            "train_images": len(self.heads),
        }

    def after_step(self, batch: int) -> bool:
        phase = self._current
        self.phase_images += batch
        if self.phase_images < phase.images:
            return False
        self.phase, self.phase_images = self.phase + 1, 0
        coming = self._current
        if coming.encoder_alone and not phase.encoder_alone:
            self.generator.load_state_dict(self.average_generator.state_dict())
            self.encoder.load_state_dict(self.average_encoder.state_dict())
        if (phase.adversarial > 0, phase.encoder_alone) != (coming.adversarial > 0, coming.encoder_alone):
            self._make_optimizers()
        return True

    def refresh(self) -> None:
        self.heads = self.read()

    def _rate(self, phase: Phase) -> float:
        done = self.phase_images / phase.images
        return min(1, (self.steps + 1) / 100) * cosine(phase.rate, phase.rate_end, done)

    def step(self) -> tuple[int, Values]:
        phase = self._current
        index = torch.randint(len(self.heads), (phase.batch,), generator=self.random).sort().values
        x, masks = self.heads.batch(self.group.share(index), self.device)
        x = x.contiguous(memory_format=torch.channels_last)
        set_rate(self.optimizer, self._rate(phase))
        values: dict[str, Tensor] = {}
        if phase.adversarial == 0 or self.phase_images >= self.config.warmup_discriminator_images:
            values |= self._autoencoder_step(phase, x, masks)
        if phase.adversarial > 0:
            values |= self._discriminator_step(x)
        return phase.batch, values

    def _autoencoder_step(self, phase: Phase, x: Tensor, masks: Tensor) -> Values:
        codes = self.encoder(x)
        mean = codes.mean(1, keepdim=True)
        spread = (codes - mean).square().mean()
        used = single_w(codes, int(len(x) * SINGLE_W_SHARE))
        image = self.generator(used, "none", max_resolution=phase.resolution)
        target = F.avg_pool2d(x, x.shape[2] // phase.resolution) if phase.resolution < x.shape[2] else x
        rebuilt = weighted_reconstruction(image, target, masks)
        loss = rebuilt + self.config.spread * spread + 1e-3 * mean.square().mean()
        values = {"rebuilt": rebuilt.detach(), "spread": spread.detach()}
        if phase.adversarial > 0:
            fooled = fool(self.discriminator, image, self.augment)
            loss = loss + phase.adversarial * fooled
            values["fooled"] = fooled.detach()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return values

    def _discriminator_step(self, x: Tensor) -> Values:
        with torch.no_grad():
            codes = self.encoder(x)
            fake = self.generator(single_w(codes, int(len(x) * SINGLE_W_SHARE)), "none")
        r1_weight = R1_GAMMA / 2 * R1_INTERVAL if self.steps % R1_INTERVAL == 0 else 0.0
        values = discriminator_step(self.discriminator, self.d_optimizer, x, fake, r1_weight, self.augment)
        if self.config.ada_target and self.steps % INTERVAL == INTERVAL - 1:
            return {**values, "r_t": self.augment.adapt(), "p": self.augment.p.clone()}
        return values


def single_w(codes: Tensor, count: int) -> Tensor:
    """codes [B, L, D] with the first `count` replaced by their own mean over layers."""
    mean = codes[:count].mean(1, keepdim=True).expand(-1, codes.shape[1], -1)
    return torch.cat([mean, codes[count:]])
