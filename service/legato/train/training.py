"""The loop that every training runs in: step, average, report, stop, go on.

A training lives in a folder: checkpoint.pt, log.jsonl, samples.png. Made again with the same arguments it goes on from
the checkpoint, and on the CPU with one thread ends with the same bits as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from legato.errors import LegatoError
from legato.models.generator import Generator
from legato.ops._library import has_kernel
from legato.train.processes import ALONE, Group
from legato.train.state import Ema, Log, load_checkpoint, save_checkpoint, write_grid

Precision = Literal["float32", "bfloat16"]
Values = Mapping[str, Tensor]  # scalars, detached; still on the device, so that a step does not wait for them
Progress = Callable[[int, Values], None]
CHECKPOINT = "checkpoint.pt"


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Training(ABC):
    """Base of the trainings. A subclass makes its parts in the constructor and calls `resume` at its end.

    `total_images` will have been seen when it has finished. Random numbers come from `random`, which the
    checkpoint keeps, and from torch's own generators, which every step seeds anew from the seed and its number. Of
    several processes the first one writes; a subclass that can run as such takes the group's share of every batch and
    lets the group follow its optimizers.
    """

    def __init__(
        self, folder: Path, total_images: int, seed: int, device: str, checkpoint_seconds: float, group: Group = ALONE
    ) -> None:
        torch.manual_seed(seed)
        self.group = group
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seed, self.device = folder, seed, torch.device(device)
        self.total_images, self.checkpoint_seconds = total_images, checkpoint_seconds
        self.images, self.steps = 0, 0
        self.random = torch.Generator().manual_seed(seed)
        self.emas: list[Ema] = []
        self.log = Log(folder)

    @property
    def finished(self) -> bool:
        """Whether all images have been seen."""
        return self.images >= self.total_images

    @abstractmethod
    def parts(self) -> Mapping[str, Stateful]:
        """What the checkpoint holds beside counts and random state: modules, averages, optimizers."""

    @abstractmethod
    def step(self) -> tuple[int, Values]:
        """One step of the optimizers: how many images it took, and its losses."""

    @abstractmethod
    def pictures(self) -> Sequence[Tensor]:
        """The rows of samples.png, each [N, 3, R, R]; called without gradients."""

    def figures(self) -> dict[str, float]:
        """Measured for the log, and for the header of the exported files; called without gradients."""
        return {}

    def after_step(self, batch: int) -> bool:
        """Called when the counts have risen by a step; True where a stretch ends and a report is due."""
        return False

    @abstractmethod
    def refresh(self) -> None:
        """Called after a report: data that has grown meanwhile may be read again."""

    def counts(self) -> tuple[int, ...]:
        """What tells how far the training is."""
        return self.images, self.steps

    def set_counts(self, counts: Sequence[int]) -> None:
        """Goes to where `counts` says, before the parts are restored."""
        self.images, self.steps = counts

    def resume(self) -> None:
        """Goes on from the checkpoint, if the folder has one. Raises ConfigError."""
        path = self.folder / CHECKPOINT
        if path.exists():
            state = load_checkpoint(path)
            self.set_counts(state["progress"])
            for name, part in self.parts().items():
                part.load_state_dict(state[name])
            self.random.set_state(state["random"])

    def save(self) -> None:
        """Writes checkpoint and sample grid."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts().items()}
        save_checkpoint(
            self.folder / CHECKPOINT, state | {"progress": self.counts(), "random": self.random.get_state()}
        )
        with torch.no_grad():
            write_grid(self.folder / "samples.png", self.pictures())

    def run(self, progress: Progress = lambda batch, values: None, stop: Callable[[], bool] = lambda: False) -> bool:
        """Steps until all images are seen, or until `stop()` says so between two of them. Returns whether it finished.

        `progress(images of the step, losses)` is called after every step. A report (checkpoint, samples, a line of the
        log) is written every `checkpoint_seconds`, where a stretch of the training ends, and at the end. Raises
        LegatoError when a loss is no number: the last checkpoint stays as it was.
        """
        reported = time.monotonic()
        latest: dict[str, Tensor] = {}  # some losses are not there in every step
        while not self.finished:
            torch.manual_seed((self.seed << 32) + (self.group.rank << 26) + self.steps)
            batch, values = self.step()
            latest |= values
            self.images, self.steps = self.images + batch, self.steps + 1
            for ema in self.emas:
                ema.update(batch, self.images)
            due = self.after_step(batch)
            progress(batch, values)
            stopped, timed = self.group.agree(stop(), time.monotonic() - reported > self.checkpoint_seconds)
            if due or stopped or timed or self.finished:
                self._report(latest)
                reported = time.monotonic()
            if stopped:
                break
        return self.finished

    def _report(self, values: Values) -> None:
        latest = {name: float(value) for name, value in values.items()}
        wrong = sorted(name for name, value in latest.items() if not math.isfinite(value))
        if wrong:
            raise LegatoError(
                f"the training went wrong by image {self.images}: {', '.join(wrong)} is not finite. The last "
                f"checkpoint in {self.folder} is from before: the same command goes on from there",
                reason="DIVERGED",
            )
        if self.group.leads:
            self.save()
            with torch.no_grad():
                figures = self.figures()
            self.log.write(images=self.images, **figures, **latest)
        self.refresh()


def cosine(start: float, end: float, done: float) -> float:
    """From `start` to `end` along half a cosine, at the share `done` of the way."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group of parameters the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def dtype_of(precision: Precision) -> torch.dtype | None:
    """The dtype inside the convolutions; None: that of the weights."""
    return torch.bfloat16 if precision == "bfloat16" else None


def frozen(generator: Generator, device: torch.device) -> Generator:
    """The generator on `device`, to differentiate its latents alone: fused where the device has the kernels (half the
    time on a CPU), otherwise in training mode, where the plain-torch reference runs."""
    with_kernels = all(has_kernel(op, device.type) for op in ("modulated_conv2d", "to_rgb"))
    return generator.to(device).requires_grad_(False).train(not with_kernels)


def chunks(count: int, size: int) -> Iterable[Tensor]:
    """Indices 0 .. count - 1 in pieces of at most `size`."""
    pieces: tuple[Tensor, ...] = torch.arange(count).split(size)
    return pieces
