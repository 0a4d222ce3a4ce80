"""What an inversion costs: generator passes that are set, memory that is measured."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from collections.abc import Sequence
from pathlib import Path

import torch

from legato.errors import InvalidInput
from legato.inversion.consecutive import ConsecutiveOptions, plan
from legato.inversion.method import Method


def at_passes(method: Method, passes: int, lengths: Sequence[int]) -> Method:
    """The method with as many whole steps as fit into `passes` generator passes for each frame that gets a code.

    A step is a forward and a backward pass of every frame in it; windows that overlap take each frame several times,
    and `keep_best` takes one pass more. The encoder stays, it takes one. Raises InvalidInput where no step fits.
    """
    if method.options is None:
        return method
    share = 1.0
    if isinstance(method.options, ConsecutiveOptions):
        windows = [window for batch in plan(lengths, method.options) for window in batch]
        share = sum(window.length for window in windows) / sum(len(window.kept) for window in windows)
    keeps_best = bool(getattr(method.options, "keep_best", False))
    steps = int((passes / share - keeps_best) / 2 + 1e-9)
    if steps < 1:
        raise InvalidInput(
            f"{passes} generator passes a frame are less than one step of {method.label!r}, which takes "
            f"{share * (2 + keeps_best):.3g}. Give --passes more"
        )
    return method.with_options(steps=steps)


class PeakMemory:
    """MiB that came on top of what the process held, at the most, while the block ran; of the GPU where it works there.

    On Linux the kernel's high-water mark is set back at the start; where that is not allowed, it counts only what
    exceeds all before.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.mib = 0.0

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device) / 2**20
        else:
            gc.collect()
            with contextlib.suppress(OSError, AttributeError):  # glibc keeps what was freed, which would hide as much
                ctypes.CDLL("libc.so.6").malloc_trim(0)
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._before = _high_water()
        return self

    def __exit__(self, *exception: object) -> None:
        cuda = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) / 2**20 if cuda else _high_water()
        self.mib = max(0.0, peak - self._before)


def _high_water() -> float:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return float(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
