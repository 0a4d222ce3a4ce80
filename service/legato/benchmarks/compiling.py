"""torch.compile for the contenders that run under it."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from legato.benchmarks.rounds import reason


class Compiler:
    """Compiles functions, and keeps count of the seconds that this takes. `unavailable`: why it cannot, or ""."""

    def __init__(self, device: torch.device, *, wanted: bool = True, mode: str = "default") -> None:
        self.device = device
        self.mode = mode
        self.seconds = 0.0
        self._wanted = wanted
        self._used = False

    @functools.cached_property
    def unavailable(self) -> str:
        """Tried once, on a sum: inductor needs a C++ compiler for the CPU and triton for CUDA."""
        if not self._wanted:
            return "--no-compile"
        logging.getLogger("torch._inductor").setLevel(logging.ERROR)
        begun = time.perf_counter()
        try:
            x = torch.ones(64, device=self.device)
            torch.compile(_sample, dynamic=False)(x)
        except Exception as error:
            return f"torch.compile does not work here: {reason(error)}"
        finally:
            self.seconds += time.perf_counter() - begun
        return ""

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, compiled at its first call for the shapes of that call."""
        self._used = True
        return torch.compile(function, dynamic=False, mode=self.mode)

    def forget(self) -> None:
        """Drop what was compiled: a function is compiled anew for every layer, and torch refuses after some."""
        if self._used:
            torch.compiler.reset()


def _sample(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + x.cos()
