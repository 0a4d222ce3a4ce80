"""A residual encoder for a frozen generator and its encoder, trained on the states that it is used in.

After ReStyle (Alaluf et al. 2021), which unrolls w' = w + R(x, G(w)) on one image with a loss on every step. A tracker
also carries what an encoder got wrong, c = w' - E(x), to the next frame: w = E(x_t) + c. A network that never saw such
states drives them away, so a pool of them is kept, stepped on in random order and put back (a learner visits its own
states, as in DAgger, Ross et al. 2011): states hundreds of frames old at the cost of two steps. In every second stream
of the pool a gradient step moves the correction on, as the tracker's own steps do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legato.models.encoder import ImageEncoder
from legato.models.generator import Generator
from legato.models.residual_encoder import ResidualEncoder
from legato.synthetic.clips import RUN
from legato.synthetic.dataset import Heads
from legato.train.encoder import SHEET, WARM_UP_STEPS
from legato.train.reconstruction import mean_psnr, weighted_reconstruction
from legato.train.state import Ema
from legato.train.training import Precision, Stateful, Training, Values, chunks, cosine, dtype_of, frozen, set_rate

HELD_OUT = 64  # images and frames of runs that figures are measured on, at most
CARRIED_STEPS = 12  # of the held-out runs: three times their frames, there and back
STEPS = 2  # on every image of a step of the optimizer


@dataclass(frozen=True, slots=True)
class ResidualConfig:
    """Options of a residual encoder's training."""

    images: int  # to see; an image counts once for every step that is taken on it
    batch: int = 12  # such images of a step of the optimizer
    rate: float = 1e-3
    rate_end: float = 5e-5  # reached along a cosine
    carried: float = 0.5  # share of the batch that continues a stream of the pool
    pool: int = 256  # streams
    restart: float = 0.04  # chance that a visit to a stream begins a new one
    inherit: float = 0.2  # chance that a new one begins with the correction of the old: a scene cut that nobody saw
    gradient: float = 0.01  # step along the gradient, in root mean square, of every second stream
    spread: float = 0.02  # weight of a code's variance over its layers
    steadiness: float = 1.0  # weight of the error of the frame-to-frame change
    ema_images: float = 2_000
    precision: Precision = "bfloat16"
    seed: int = 1
    checkpoint_seconds: float = 240


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step of the optimizer sees."""

    frames: Sequence[tuple[Tensor, Tensor]]  # STEPS times images [B, 3, R, R] and masks, streams before single images
    streams: Tensor  # [S] of the pool, on the CPU
    correction: Tensor  # [B, L, D], where they start


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step gave, with gradients."""

    codes: Tensor  # [B, L, D]
    image: Tensor  # [B, 3, R, R]
    correction: Tensor  # [B, L, D], without gradients


class Streams(nn.Module):
    """The pool: which run each stream shows, and its correction."""

    run: Tensor
    correction: Tensor

    def __init__(self, count: int, runs: int, shape: Sequence[int], random: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("run", torch.randint(max(runs, 1), (count,), generator=random))
        self.register_buffer("correction", torch.zeros(count, *shape))


class ResidualTraining(Training):
    """One training of a residual encoder in a folder.

    `read` gives single images and may give more of them later; `runs` are images RUN in a row of one moving head, for
    the pool. The held-out figures are dB: `psnr0_db` of the encoder, `psnr1_db`.. after steps; on the last quarter of
    CARRIED_STEPS frames of the runs `run_psnr_db` of the encoder, `carried_psnr_db` with one step on each frame.
    """

    def __init__(
        self,
        config: ResidualConfig,
        folder: Path,
        generator: Generator,
        encoder: ImageEncoder,
        read: Callable[[], Heads],
        runs: Heads,
        held_out: Heads,
        held_out_runs: Heads,
        device: str = "cpu",
    ) -> None:
        super().__init__(folder, config.images, config.seed, device, config.checkpoint_seconds)
        self.config, self.read, self.data, self.runs = config, read, read(), runs
        self.held_out, self.held_out_runs = held_out, held_out_runs
        dtype = dtype_of(config.precision)
        self.generator, self.encoder = frozen(generator, self.device), encoder.to(self.device).eval()
        self.generator.autocast_dtype = self.encoder.autocast_dtype = dtype
        self.residual = ResidualEncoder.from_encoder(self.encoder).train()
        self.average = ResidualEncoder(self.residual.config, autocast_dtype=dtype).to(self.device)
        self.emas = [Ema(self.residual, self.average, config.ema_images)]
        self.optimizer = torch.optim.Adam(self.residual.parameters(), betas=(0.9, 0.99), fused=True)
        shape = encoder.config.num_layers, encoder.config.w_dim
        self.streams = Streams(config.pool, len(runs) // RUN, shape, self.random).to(self.device)
        self.resume()

    def parts(self) -> Mapping[str, Stateful]:
        modules = {"residual": self.residual, "average": self.average, "streams": self.streams}
        return modules | {"optimizer": self.optimizer}

    def refresh(self) -> None:
        self.data = self.read()

    def pictures(self) -> Sequence[Tensor]:
        """Input; the encoder's image; after one step, two, three."""
        x, _ = self.held_out.batch(torch.arange(min(SHEET, len(self.held_out))), self.device)
        return [x, *self._unrolled(x, 3)]

    def figures(self) -> dict[str, float]:
        totals = torch.zeros(4, dtype=torch.float64)
        count = min(HELD_OUT, len(self.held_out))
        for index in chunks(count, 16):
            x, _ = self.held_out.batch(index, self.device)
            for k, image in enumerate(self._unrolled(x, 3)):
                totals[k] += mean_psnr(image, x) * len(x) / count
        found = {f"psnr{k}_db": float(total) for k, total in enumerate(totals)}
        return found | self._carried()

    def _unrolled(self, x: Tensor, steps: int) -> list[Tensor]:
        """Images of the encoder's code and after each step, with the averaged weights."""
        codes = self.encoder(x)
        images = [self.generator(codes)]
        for _ in range(steps):
            codes = codes + self.average(x, images[-1], codes)
            images.append(self.generator(codes))
        return images

    def _carried(self) -> dict[str, float]:
        """Means over the last quarter of CARRIED_STEPS frames of the held-out runs, there and back."""
        count = min(HELD_OUT, len(self.held_out_runs)) // RUN
        there_and_back = [*range(RUN), *range(RUN - 2, 0, -1)]
        found, last = {"run_psnr_db": 0.0, "carried_psnr_db": 0.0}, CARRIED_STEPS // 4
        for index in chunks(count, 16):
            correction: Tensor | float = 0.0
            for k in range(CARRIED_STEPS):
                x, _ = self.held_out_runs.batch(index * RUN + there_and_back[k % len(there_and_back)], self.device)
                encoded = self.encoder(x)
                codes = encoded + correction
                codes = codes + self.average(x, self.generator(codes), codes)
                correction = codes - encoded
                if k >= CARRIED_STEPS - last:
                    for name, of in zip(found, (encoded, codes), strict=True):
                        found[name] += mean_psnr(self.generator(of), x) * len(x) / (last * count)
        return found

    def step(self) -> tuple[int, Values]:
        config = self.config
        rate = cosine(config.rate, config.rate_end, self.images / config.images)
        set_rate(self.optimizer, rate * min(1, (self.steps + 1) / WARM_UP_STEPS))
        batch = self._draw()
        loss, last, values = self._losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if carried := len(batch.streams):
            assert last.codes.grad is not None
            self._put_back(batch.streams, last.correction[:carried], last.codes.grad[:carried])
            values["correction"] = last.correction[:carried].square().mean().sqrt()
        return STEPS * len(batch.correction), values

    def _losses(self, batch: Batch) -> tuple[Tensor, Stepped, dict[str, Tensor]]:
        """Of one step on every frame, each from where the one before led, without a gradient between them."""
        carried = len(batch.streams)
        last: Stepped | None = None
        errors, losses, values = [], [], {}
        for k, (x, masks) in enumerate(batch.frames):
            last = self._stepped(x, last.correction if last else batch.correction, last, carried)
            rebuilt = weighted_reconstruction(last.image, x, masks)
            spread = (last.codes - last.codes.mean(1, keepdim=True)).square().mean()
            losses += [rebuilt, self.config.spread * spread]
            errors.append((last.image - x)[:carried])
            values[f"rebuilt{k + 1}"] = rebuilt.detach()
        assert last is not None
        if carried:
            unsteady = torch.stack([(b - a).abs().mean() for a, b in pairwise(errors)]).mean()
            losses.append(self.config.steadiness * carried / len(batch.correction) * unsteady)
            values["unsteady"] = unsteady.detach()
        return torch.stack(losses).sum(), last, values

    def _stepped(self, x: Tensor, correction: Tensor, before: Stepped | None, carried: int) -> Stepped:
        """One step on x from E(x) + correction; after `carried` streams, single images, where `before` left them."""
        with torch.no_grad():
            encoded = self.encoder(x)
            start = encoded + correction
            if before is None:
                rebuilt = self.generator(start)
            else:
                rebuilt = torch.cat([self.generator(start[:carried]), before.image[carried:]])
        codes = start + self.residual(x, rebuilt, start)
        codes.retain_grad()
        return Stepped(codes, self.generator(codes), (codes - encoded).detach())

    def _draw(self) -> Batch:
        """The streams that are visited, new ones among them, and beside them single images, the same in all frames."""
        config, pool = self.config, self.streams
        total = max(1, config.batch // STEPS)
        carried = round(total * config.carried)
        singles = torch.randint(len(self.data), (total - carried,), generator=self.random).sort().values
        streams = torch.randperm(config.pool, generator=self.random)[:carried]
        chance = torch.rand(2, carried, generator=self.random)
        new, keeps = chance[0] < config.restart, chance[1] < config.inherit
        others = torch.randint(len(self.runs) // RUN, (carried,), generator=self.random)
        first, back = (torch.randint(n, (carried,), generator=self.random) for n in (RUN - 1, 2))
        pool.run[streams] = torch.where(new, others, pool.run[streams].cpu()).to(self.device)
        kept = (~new | keeps).to(self.device)
        pool.correction[streams] *= kept[:, None, None]
        base = pool.run[streams].cpu() * RUN + first
        index = [base + back, base + 1 - back]
        frames = [_joined(self.runs.batch(i, self.device), self.data.batch(singles, self.device)) for i in index]
        correction = F.pad(pool.correction[streams], (0, 0, 0, 0, 0, total - carried))
        return Batch(frames, streams, correction)

    def _put_back(self, streams: Tensor, correction: Tensor, gradient: Tensor) -> None:
        odd = (streams % 2 == 1).to(self.device)[:, None, None]
        size = gradient.square().mean((1, 2), keepdim=True).sqrt() + 1e-12
        self.streams.correction[streams] = correction - odd * self.config.gradient * gradient / size


def _joined(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])
