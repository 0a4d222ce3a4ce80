"""What every training shares: moving averages, checkpoints, a log, sample grids."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from legato.synthetic.dataset import to_uint8


class Ema:
    """Exponential moving average of a module's parameters (Karras et al. 2018, section 4.2 of Progressive GAN)."""

    def __init__(self, module: nn.Module, shadow: nn.Module, half_life: float) -> None:
        self.module = module
        self.shadow = shadow.eval().requires_grad_(False)
        self.half_life = half_life  # images
        self.shadow.load_state_dict(module.state_dict())

    @torch.no_grad()
    def update(self, batch: int, seen: int) -> None:
        """After a step on `batch` images, of `seen` so far; the average is short while the training is young."""
        weight = 1 - 0.5 ** (batch / max(1.0, min(self.half_life, 0.1 * seen)))
        averages, live = list(self.shadow.parameters()), [p.detach() for p in self.module.parameters()]
        torch._foreach_lerp_(averages, live, weight)
        for average, buffer in zip(self.shadow.buffers(), self.module.buffers(), strict=True):
            average.copy_(buffer)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes beside the target and renames: a killed save leaves the former one."""
    partial = path.with_suffix(".tmp")
    torch.save(dict(state), partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class Log:
    """Appends one JSON object a line to `log.jsonl`, and tells the latest values to whoever shows the progress."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._started = time.monotonic()

    def write(self, **values: float | int | str) -> None:
        row = {"seconds": round(time.monotonic() - self._started, 1), **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def write_grid(path: Path, rows: Iterable[Tensor]) -> None:
    """One row of pictures for each [N, 3, R, R] in [-1, 1]."""
    lines = [np.concatenate(list(to_uint8(row.float()).permute(0, 2, 3, 1).cpu().numpy()), axis=1) for row in rows]
    cv2.imwrite(str(path), np.concatenate(lines, axis=0)[:, :, ::-1])
