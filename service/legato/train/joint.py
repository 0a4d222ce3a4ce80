"""Generator and encoder trained together on images, then made sharp by a discriminator.

An autoencoder E -> W+ -> G finds geometry in minutes where a GAN needs days, and a short adversarial stage on its
reconstructions (the domain-guided encoder's objective, Zhu et al. 2020, eq. 2, with G learning too) makes them sharp
while reconstruction anchors them. A quarter of each batch is decoded from the mean of its layers' codes, so that W,
and not only W+, holds heads; a penalty on the spread over layers keeps W+ near W (as e4e's delta regularizer, Tov et
al. 2021, eq. 4). The loss starts at 16 px and doubles (the skip branch of the same network stops early).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from legato.models.discriminator import Discriminator
from legato.models.encoder import Encoder, EncoderConfig
from legato.models.generator import Generator, GeneratorConfig
from legato.synthetic.dataset import Heads
from legato.train.reconstruction import mean_psnr, weighted_reconstruction
from legato.train.state import Ema, Log, load_checkpoint, save_checkpoint, write_grid

R1_GAMMA, R1_INTERVAL, R1_BATCH = 1.0, 16, 8
SINGLE_W_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training: loss resolution, images to see, batch size, adversarial weight (0: none), learning
    rate."""

    resolution: int
    images: int
    batch: int
    adversarial: float = 0.0
    rate: float = 2.5e-3
    rate_end: float = 2.5e-3  # reached along a cosine


HEADS_128 = (
    Phase(16, 40_000, 32),
    Phase(32, 40_000, 32),
    Phase(64, 48_000, 16),
    Phase(128, 64_000, 16, rate_end=1e-3),
    Phase(128, 40_000, 16, adversarial=0.1, rate=1.5e-3, rate_end=1e-4),
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


class JointTraining:
    """One training run in a folder: checkpoint.pt, log.jsonl, samples.png; started again it goes on."""

    def __init__(
        self, config: JointConfig, folder: Path, read: Callable[[], Heads], evaluation: Heads, device: str = "cpu"
    ) -> None:
        torch.manual_seed(config.seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.config, self.folder, self.device = config, folder, torch.device(device)
        self.read, self.heads, self.evaluation = read, read(), evaluation
        half = torch.bfloat16

        def make() -> tuple[Generator, Encoder]:
            generator = Generator(config.generator, autocast_dtype=half).to(device)
            return generator, Encoder(config.encoder, autocast_dtype=half).to(device)

        self.generator, self.encoder = make()
        narrow = GeneratorConfig(**{**asdict(config.generator), "channel_base": config.discriminator_base})
        self.discriminator = Discriminator(narrow, autocast_dtype=half).to(device)
        averages = make()
        self.emas = [
            Ema(n, a, config.ema_images) for n, a in zip((self.generator, self.encoder), averages, strict=True)
        ]
        self.average_generator, self.average_encoder = averages
        self.images, self.phase, self.phase_images, self.steps = 0, 0, 0, 0
        self.random = torch.Generator().manual_seed(config.seed)
        self.log = Log(folder)
        self._make_optimizers()
        if (folder / "checkpoint.pt").exists():
            self._restore(load_checkpoint(folder / "checkpoint.pt"))

    def _make_optimizers(self) -> None:
        adversarial = self.config.phases[self.phase].adversarial > 0
        both = [*self.generator.synthesis.parameters(), *self.encoder.parameters()]
        self.optimizer = torch.optim.Adam(both, betas=(0.5 if adversarial else 0.9, 0.99), fused=True)
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=2e-3, betas=(0.0, 0.99), fused=True)

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {
            "generator": self.generator,
            "encoder": self.encoder,
            "discriminator": self.discriminator,
            "average_generator": self.average_generator,
            "average_encoder": self.average_encoder,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.images, self.phase, self.phase_images, self.steps = state["progress"]
        self._make_optimizers()
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.d_optimizer.load_state_dict(state["d_optimizer"])
        self.random.set_state(state["random"])

    def save(self) -> None:
        """Checkpoint, and a grid: input, reconstruction, reconstruction from one w for all layers."""
        state: dict[str, Any] = {name: module.state_dict() for name, module in self._modules().items()}
        state |= {"optimizer": self.optimizer.state_dict(), "d_optimizer": self.d_optimizer.state_dict()}
        state |= {
            "progress": (self.images, self.phase, self.phase_images, self.steps),
            "random": self.random.get_state(),
        }
        save_checkpoint(self.folder / "checkpoint.pt", state)
        x, _ = self.evaluation.batch(torch.arange(12), self.device)
        with torch.no_grad():
            codes = self.average_encoder(x)
            rows = [x, self.average_generator(codes, "none"), self.average_generator(single_w(codes, 12), "none")]
        write_grid(self.folder / "samples.png", rows)

    def run(self, progress: Callable[[int, dict[str, float]], None] = lambda n, v: None) -> None:
        """All phases that are left. `progress(images, latest values)` is called after every step."""
        saved = time.monotonic()
        while self.phase < len(self.config.phases):
            phase = self.config.phases[self.phase]
            self.heads = self.read()
            while self.phase_images < phase.images:
                values = self._step(phase)
                self.images, self.phase_images = self.images + phase.batch, self.phase_images + phase.batch
                self.steps += 1
                for ema in self.emas:
                    ema.update(phase.batch, self.images)
                progress(phase.batch, values)
                if time.monotonic() - saved > self.config.checkpoint_seconds:
                    self._report(values)
                    saved = time.monotonic()
            self.phase, self.phase_images = self.phase + 1, 0
            if self.phase < len(self.config.phases):
                self._next_phase(phase, self.config.phases[self.phase])
            self._report(values)

    def _next_phase(self, done: Phase, coming: Phase) -> None:
        if (done.adversarial > 0) != (coming.adversarial > 0):
            self._make_optimizers()

    def _report(self, values: dict[str, float]) -> None:
        self.save()
        psnr, single = self.evaluate()
        self.log.write(
            images=self.images,
            phase=self.phase,
            psnr_db=psnr,
            single_w_psnr_db=single,
            train_images=len(self.heads),
            **values,
        )
        self.heads = self.read()

    @torch.no_grad()
    def evaluate(self, count: int = 128) -> tuple[float, float]:
        """Held-out PSNR in dB at full resolution: through W+, and through one w."""
        found = []
        for i in range(0, min(count, len(self.evaluation)), 16):
            x, _ = self.evaluation.batch(torch.arange(i, i + 16), self.device)
            codes = self.average_encoder(x)
            found.append([mean_psnr(self.average_generator(c, "none"), x) for c in (codes, single_w(codes, 16))])
        psnr, single = torch.tensor(found).mean(0).tolist()
        return psnr, single

    def _rate(self, phase: Phase) -> float:
        done = self.phase_images / phase.images
        return min(1, (self.steps + 1) / 100) * (
            phase.rate_end + (phase.rate - phase.rate_end) * 0.5 * (1 + math.cos(math.pi * done))
        )

    def _step(self, phase: Phase) -> dict[str, float]:
        index = torch.randint(len(self.heads), (phase.batch,), generator=self.random).sort().values
        x, masks = self.heads.batch(index, self.device)
        x = x.contiguous(memory_format=torch.channels_last)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(phase)
        if phase.adversarial == 0:
            return self._generator_step(phase, x, masks)
        values: dict[str, float] = {}
        if self.phase_images >= self.config.warmup_discriminator_images:
            values = self._generator_step(phase, x, masks)
        return values | self._discriminator_step(x)

    def _generator_step(self, phase: Phase, x: Tensor, masks: Tensor) -> dict[str, float]:
        codes = self.encoder(x)
        mean = codes.mean(1, keepdim=True)
        spread = (codes - mean).square().mean()
        used = single_w(codes, int(phase.batch * SINGLE_W_SHARE))
        image = self.generator(used, "none", max_resolution=phase.resolution)
        target = F.avg_pool2d(x, x.shape[2] // phase.resolution) if phase.resolution < x.shape[2] else x
        rebuilt = weighted_reconstruction(image, target, masks)
        loss = rebuilt + self.config.spread * spread + 1e-3 * mean.square().mean()
        values = {"rebuilt": float(rebuilt.detach()), "spread": float(spread.detach())}
        if phase.adversarial > 0:
            self.discriminator.requires_grad_(False)
            fooled = F.softplus(-self.discriminator(image)).mean()
            self.discriminator.requires_grad_(True)
            loss = loss + phase.adversarial * fooled
            values["fooled"] = float(fooled.detach())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return values

    def _discriminator_step(self, x: Tensor) -> dict[str, float]:
        """Non-saturating logistic loss with lazy R1 (Karras et al. 2020, section 3.1: every 16 steps, float32)."""
        with torch.no_grad():
            codes = self.encoder(x)
            fake = self.generator(single_w(codes, int(len(x) * SINGLE_W_SHARE)), "none")
        real_score, fake_score = self.discriminator(x), self.discriminator(fake)
        loss = F.softplus(-real_score).mean() + F.softplus(fake_score).mean()
        self.d_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.steps % R1_INTERVAL == 0:
            real = x[:R1_BATCH].detach().requires_grad_(True)
            score = self.discriminator(real, full_precision=True).sum()
            (gradient,) = torch.autograd.grad(score, real, create_graph=True)
            penalty = gradient.square().sum((1, 2, 3)).mean()
            (penalty * (R1_GAMMA / 2 * R1_INTERVAL)).backward()
        self.d_optimizer.step()
        return {"real": float(real_score.detach().mean()), "fake": float(fake_score.detach().mean())}


def single_w(codes: Tensor, count: int) -> Tensor:
    """codes [B, L, D] with the first `count` replaced by their own mean over layers."""
    mean = codes[:count].mean(1, keepdim=True).expand(-1, codes.shape[1], -1)
    return torch.cat([mean, codes[count:]])
