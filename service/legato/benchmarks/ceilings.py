"""What the machine can do at best, measured in the same run: the floor that times are held against."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from legato.benchmarks.layers import Work

COPIES = (1 << 20, 16 << 20, 512 << 20)  # bytes read plus bytes written


@dataclass(frozen=True, slots=True)
class Ceilings:
    """flops: operations a second by dtype, of a large matrix product. bandwidth: bytes a second of a copy, by the bytes
    that it reads and writes: what fits a cache moves faster than memory does."""

    flops: dict[str, float]
    bandwidth: dict[int, float]

    def or_better(self, other: Ceilings) -> Ceilings:
        """The better of two measurements of the same: others may have been busy during one of them."""
        return Ceilings(
            {name: max(value, other.flops[name]) for name, value in self.flops.items()},
            {size: max(value, other.bandwidth[size]) for size, value in self.bandwidth.items()},
        )

    def at(self, moved: float) -> float:
        """Bytes a second for a computation that moves so many: the smallest copy that is as large, or the largest."""
        larger = [size for size in self.bandwidth if size >= moved]
        return self.bandwidth[min(larger) if larger else max(self.bandwidth)]

    def floor(self, work: Work, dtype: str) -> float:
        """Seconds under which `work` cannot be done."""
        return max(work.flop / self.flops[dtype], work.bytes / self.at(work.bytes))


def measure(device: torch.device, dtypes: list[str], *, repeats: int = 5) -> Ceilings:
    """The best of `repeats`, for a ceiling is what was reached once. On CUDA, where buffers rotate, of a large copy."""
    side = 8192 if device.type == "cuda" else 1536
    flops = {}
    for name in dtypes:
        a, b = (torch.randn(side, side, device=device).to(getattr(torch, name)) for _ in range(2))
        out = torch.empty_like(a)
        flops[name] = 2.0 * side**3 / _best(device, lambda a=a, b=b, out=out: torch.mm(a, b, out=out), repeats)
    bandwidth = {}
    for size in COPIES if device.type == "cpu" else (4 << 30,):
        source = torch.randn(size // 8, device=device)
        target = torch.empty_like(source)
        bandwidth[size] = size / _best(device, lambda s=source, t=target: t.copy_(s), max(repeats, (16 << 20) // size))
    return Ceilings(flops, bandwidth)


def _best(device: torch.device, run: object, repeats: int) -> float:
    assert callable(run)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for _ in range(repeats + 1):  # the first warms up
        wait()
        begun = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - begun)
    return min(times[1:])
