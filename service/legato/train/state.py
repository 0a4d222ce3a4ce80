"""What every training keeps and writes: moving averages, checkpoints, a log, sample grids."""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from legato.errors import ConfigError
from legato.synthetic.dataset import to_uint8
from legato.synthetic.media import sheet, write_png


class Ema:
    """Exponential moving average of a module's parameters (Karras et al. 2018, section 4.2 of Progressive GAN).

    The shadow stays in training mode without gradients: there the plain-torch reference of each op runs, which every
    device has, whatever kernels were built.
    """

    def __init__(self, module: nn.Module, shadow: nn.Module, half_life: float) -> None:
        self.module = module
        self.shadow = shadow.train().requires_grad_(False)
        self.half_life = half_life  # images
        self.shadow.load_state_dict(module.state_dict())

    @torch.no_grad()
    def update(self, batch: int, seen: int) -> None:
        """After a step on `batch` images, of `seen` so far; the average is short while the training is young.

        shadow += (1 - 0.5^(batch / half_life)) (module - shadow), half_life at most a tenth of what was seen; buffers
        are copied.
        """
        weight = 1 - 0.5 ** (batch / max(1.0, min(self.half_life, 0.1 * seen)))
        averages, live = ([p.detach() for p in m.parameters()] for m in (self.shadow, self.module))
        torch._foreach_lerp_(averages, live, weight)
        for average, buffer in zip(self.shadow.buffers(), self.module.buffers(), strict=True):
            average.copy_(buffer)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes beside the target and renames: a killed save leaves the former one."""
    partial = path.with_suffix(".tmp")
    torch.save(dict(state), partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What save_checkpoint wrote, on the CPU. Raises ConfigError for a file that is none."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"{path} is no checkpoint of a training that can be read ({type(error).__name__}); "
            "remove it to begin anew, or give another --out"
        ) from error
    return state


class Log:
    """Appends one JSON object a line to `log.jsonl`; a resumed training counts its seconds on from the last line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.jsonl"
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        self._half_line = "\n" if text and not text.endswith("\n") else ""  # a kill came while it was written
        self._started = time.monotonic() - _last_seconds(text)

    @property
    def seconds(self) -> float:
        """Time spent on this training, over all its starts."""
        return round(time.monotonic() - self._started, 1)

    def write(self, **values: float | int | str) -> None:
        """One line; a number that JSON cannot say is written as null."""
        row = {"seconds": self.seconds, **values}
        finite = {k: v if isinstance(v, str) or math.isfinite(v) else None for k, v in row.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._half_line + json.dumps(finite) + "\n")
        self._half_line = ""


def _last_seconds(text: str) -> float:
    """Of the last whole line."""
    for line in reversed(text.splitlines()):
        try:
            return float(json.loads(line)["seconds"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0.0


def write_grid(path: Path, rows: Iterable[Tensor]) -> None:
    """One row of pictures for each [N, 3, R, R] in [-1, 1]; replaced as a whole."""
    pictures = [to_uint8(row.float()).permute(0, 2, 3, 1).cpu().numpy() for row in rows]
    write_png(path, sheet(np.concatenate(pictures), columns=len(pictures[0])))
