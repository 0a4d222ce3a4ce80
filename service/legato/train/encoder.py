"""An encoder for a frozen generator: image -> W+ such that the generator gives the image back.

The images are the user's, the generator's own samples, or both in every batch. The loss is the weighted reconstruction
of the joint training, with a penalty on the spread of a code over its layers (as e4e's delta regularizer, Tov et al.
2021, eq. 4); the codes of samples are known, and the distance to them is a third term. A share of the images at the end
may add a discriminator's judgment of the reconstruction.

The other objective is that of the domain-guided encoder (Zhu et al. 2020, eq. 2 and 3): mean squared error, a
perceptual term, and the discriminator from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from legato.losses import laplacian_pyramid_l1, mse, perceptual_distance
from legato.models.discriminator import Discriminator
from legato.models.encoder import Encoder, EncoderConfig, ImageEncoder, Sizes
from legato.models.generator import Generator
from legato.models.perceptual import PerceptualNetwork
from legato.synthetic.dataset import Heads
from legato.train.adversarial import R1_INTERVAL, discriminator_step, fool
from legato.train.reconstruction import mean_psnr, weighted_reconstruction
from legato.train.state import Ema
from legato.train.training import Precision, Stateful, Training, Values, chunks, cosine, dtype_of, frozen, set_rate

WARM_UP_STEPS = 100  # the rate rises linearly
SHEET = 12
HELD_OUT = 128  # images that figures are measured on, at most
HELD_OUT_SAMPLES_SEED = 0x5EED


@dataclass(frozen=True, slots=True)
class EncoderTrainingConfig:
    """Options of an encoder training."""

    encoder: Sizes  # an EncoderConfig, or that of the encoder that it goes on from
    images: int  # to see
    batch: int = 16
    rate: float = 2.5e-3
    rate_end: float = 1e-4  # reached along a cosine
    objective: Literal["reconstruction", "in-domain"] = "reconstruction"
    spread: float = 0.02
    samples: float = 0.25  # share of a batch that the generator makes; all of it where there are no images
    code: float = 1.0  # weight of the distance to their known codes
    init: str = ""  # digest of the encoder that it goes on from
    adversarial: float = 0.0  # weight; 0: no discriminator
    adversarial_share: float = 0.4  # of the images, at the end
    r1_gamma: float = 1.0
    perceptual: str = "pyramid"  # of the in-domain objective: the features' name
    perceptual_weight: float = 1.0
    discriminator_base: int = 2048
    discriminator_images: int = 2_000  # seen by the discriminator before it is listened to
    ema_images: float = 5_000
    precision: Precision = "bfloat16"
    seed: int = 1
    checkpoint_seconds: float = 240


@dataclass(frozen=True, slots=True)
class Batch:
    """Images [B, 3, R, R], masks of eyes and mouth [B, 2, m, m], and the latents [S, L, D] of the first S: samples."""

    images: Tensor
    masks: Tensor
    latents: Tensor | None = None

    @property
    def samples(self) -> int:
        return 0 if self.latents is None else len(self.latents)


class EncoderTraining(Training):
    """One encoder training in a folder.

    `read` gives the images and may give more of them later, `held_out` those that are measured; without `read` the
    generator's own samples are both. `features` are those of the in-domain objective; without them an L1 Laplacian
    pyramid stands in. `init`, an encoder of this generator, is gone on from.
    """

    def __init__(
        self,
        config: EncoderTrainingConfig,
        folder: Path,
        generator: Generator,
        read: Callable[[], Heads] | None = None,
        held_out: Heads | None = None,
        device: str = "cpu",
        features: PerceptualNetwork | None = None,
        init: ImageEncoder | None = None,
    ) -> None:
        super().__init__(folder, config.images, config.seed, device, config.checkpoint_seconds)
        self.config, self.read, self.data = config, read, read() if read else None
        dtype = dtype_of(config.precision)
        self.features = features
        self.generator = frozen(generator, self.device)
        self.generator.autocast_dtype = dtype
        self.encoder = self._beginning(init)
        self.encoder.autocast_dtype = dtype
        self.average = deepcopy(self.encoder)
        self.emas = [Ema(self.encoder, self.average, config.ema_images)]
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), betas=(0.9, 0.99), fused=True)
        if config.adversarial:
            narrow = replace(generator.config, channel_base=config.discriminator_base)
            self.discriminator = Discriminator(narrow, autocast_dtype=dtype).to(self.device)
            self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=2e-3, betas=(0.0, 0.99), fused=True)
        self.held_out = held_out
        self.resume()

    def _beginning(self, init: ImageEncoder | None) -> ImageEncoder:
        if init is not None:
            return deepcopy(init).to(self.device).train().requires_grad_(True)
        assert isinstance(self.config.encoder, EncoderConfig)
        made = Encoder(self.config.encoder).to(self.device)
        made.w_avg.copy_(self.generator.w_avg)
        return made

    def parts(self) -> Mapping[str, Stateful]:
        parts: dict[str, Stateful] = {"encoder": self.encoder, "average": self.average, "optimizer": self.optimizer}
        if self.config.adversarial:
            parts |= {"discriminator": self.discriminator, "d_optimizer": self.d_optimizer}
        return parts

    def pictures(self) -> Sequence[Tensor]:
        """Input; reconstruction; reconstruction from the mean over layers of each code."""
        x = self._held_out_batch(torch.arange(min(SHEET, self._held_out_count)))
        codes = self.average(x)
        return [x, self.generator(codes), self.generator(codes.mean(1, keepdim=True).expand_as(codes))]

    def figures(self) -> dict[str, float]:
        """Mean PSNR in dB of held-out images, through the averaged encoder."""
        total = 0.0
        for index in chunks(self._held_out_count, SHEET):
            x = self._held_out_batch(index)
            total += mean_psnr(self.generator(self.average(x)), x) * len(x)
        return {"psnr_db": total / self._held_out_count}

    def refresh(self) -> None:
        if self.read:
            self.data = self.read()

    def step(self) -> tuple[int, Values]:
        config = self.config
        rate = cosine(config.rate, config.rate_end, self.images / config.images)
        set_rate(self.optimizer, rate * min(1, (self.steps + 1) / WARM_UP_STEPS))
        batch = self._draw(config.batch)
        since = self.images - (1 - config.adversarial_share) * config.images
        judged = config.adversarial > 0 and since >= 0
        values = dict(self._encoder_step(batch, judged and since >= config.discriminator_images))
        if judged:
            real = batch.images[batch.samples :] if batch.samples < config.batch else batch.images
            with torch.no_grad():
                fake = self.generator(self.encoder(real))
            r1_weight = config.r1_gamma / 2 * R1_INTERVAL if self.steps % R1_INTERVAL == 0 else 0.0
            values |= discriminator_step(self.discriminator, self.d_optimizer, real, fake, r1_weight)
        return config.batch, values

    def _encoder_step(self, batch: Batch, judged: bool) -> Values:
        codes = self.encoder(batch.images)
        image = self.generator(codes)
        rebuilt, terms = self._rebuilt(image, batch)
        spread = (codes - codes.mean(1, keepdim=True)).square().mean()
        loss = rebuilt + self.config.spread * spread
        values = {**terms, "spread": spread.detach()}
        if batch.latents is not None:
            distance = (codes[: batch.samples] - batch.latents).square().mean()
            loss = loss + self.config.code * batch.samples / len(codes) * distance
            values["code"] = distance.detach()
        if judged:
            fooled = fool(self.discriminator, image)
            loss = loss + self.config.adversarial * fooled
            values["fooled"] = fooled.detach()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return values

    def _rebuilt(self, image: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the images are compared by, and its parts for the log."""
        if self.config.objective == "reconstruction":
            loss = weighted_reconstruction(image, batch.images, batch.masks)
            return loss, {"rebuilt": loss.detach()}
        squares = mse(image, batch.images).mean()
        if self.features is None:
            alike = laplacian_pyramid_l1(image, batch.images).mean()
        else:
            with torch.no_grad():
                wanted = self.features.features(batch.images)
            alike = perceptual_distance(self.features.features(image), wanted).mean()
        parts = {"squares": squares.detach(), "perceptual": alike.detach()}
        return squares + self.config.perceptual_weight * alike, parts

    def _draw(self, count: int) -> Batch:
        """Samples, then images."""
        made = count if self.data is None else round(self.config.samples * count)
        if self.data is None or made == count:
            return self._sample(count, self.random)
        index = torch.randint(len(self.data), (count - made,), generator=self.random).sort().values
        images, masks = self.data.batch(index, self.device)
        if not made:
            return Batch(images, masks)
        sampled = self._sample(made, self.random)
        return Batch(torch.cat([sampled.images, images]), torch.cat([sampled.masks, masks]), sampled.latents)

    @torch.no_grad()
    def _sample(self, count: int, random: torch.Generator) -> Batch:
        z = torch.randn(count, self.generator.config.z_dim, generator=random)
        latents = self.generator.map(z.to(self.device))
        image = self.generator(latents).clamp(-1, 1)
        side = image.shape[2] // 2  # as of renders
        return Batch(image, image.new_zeros(count, 2, side, side), latents)

    @property
    def _held_out_count(self) -> int:
        return min(HELD_OUT, len(self.held_out)) if self.held_out is not None else HELD_OUT

    def _held_out_batch(self, index: Tensor) -> Tensor:
        """Images [B, 3, R, R]; the same ones at every call."""
        if self.held_out is not None:
            return self.held_out.batch(index, self.device)[0]
        random = torch.Generator().manual_seed(HELD_OUT_SAMPLES_SEED + int(index[0]))
        return self._sample(len(index), random).images
