"""Every op once, forward and backward, at sizes that are no multiples of a tile: what compute-sanitizer runs.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python benchmarks/sanitize.py

Without the cache every tensor is an allocation of its own, so that a read beyond its end is seen. The results are
compared coarsely with the reference; the tests do that in earnest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "service"))
from legato import ops

TOLERANCE = 0.1  # of the largest value; bfloat16 and an index that is wrong lie far apart
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Case = tuple[str, dict[str, Tensor], dict[str, Any]]  # op, tensors with a gradient, everything else


def cases(dtype: torch.dtype) -> Iterator[Case]:
    """Small ones of each kind of kernel: few and many channels, both kernel sizes, both scales, odd heights."""

    def draw(*shape: int, scale: float = 1.0, precise: bool = False) -> Tensor:
        return (scale * torch.randn(shape)).to(torch.float32 if precise else dtype)

    # B, I, O, H, W, kernel, up
    sizes = [(2, 16, 24, 9, 18, 3, 1), (1, 32, 16, 9, 7, 3, 2), (2, 64, 64, 4, 4, 3, 1), (3, 8, 3, 5, 6, 1, 1)]
    for batch, inputs, outputs, height, width, kernel, up in sizes:
        x = draw(batch, inputs, height, width).contiguous(memory_format=torch.channels_last)
        weight = draw(outputs, inputs, kernel, kernel, scale=inputs**-0.5)
        noise = draw(1, 1, height * up, width * up)
        others = {"weight": weight, "noise": noise, "bias": draw(outputs), "up": up, "clamp": 256.0}
        others["q"] = weight.float().square().sum((2, 3))
        yield "modulated_conv2d", {"x": x, "styles": draw(batch, inputs, precise=True)}, others

    x = draw(2, 24, 10, 14).contiguous(memory_format=torch.channels_last)
    free = {"x": x, "styles": draw(2, 24, precise=True), "image": draw(2, 3, 5, 7, precise=True)}
    yield "to_rgb", free, {"weight": draw(3, 24, 1, 1, scale=0.2), "bias": draw(3), "clamp": 256.0}

    image, flow = draw(2, 3, 9, 13), draw(2, 2, 9, 13, precise=True, scale=3.0)
    masks = {"backward": -flow + draw(2, 2, 9, 13, precise=True, scale=0.1), "boundaries": True}
    yield "flow_warp", {"image": image, "flow": flow}, {}
    yield "flow_warp", {"image": image, "flow": flow}, masks
    yield "photometric_error", {"image": image, "flow": flow}, {"target": draw(2, 3, 9, 13), **masks, "penalty": "l2"}


def run(name: str, free: dict[str, Tensor], others: dict[str, Any], device: str) -> list[Tensor]:
    """The first output of an op and its gradients, back on the CPU."""
    leaves = {key: value.detach().to(device, copy=True).requires_grad_() for key, value in free.items()}
    others = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in others.items()}
    output = getattr(ops, name)(**leaves, **others)
    first: Tensor = output[0] if isinstance(output, tuple) else output
    weights = torch.linspace(-1, 1, first.numel(), device=first.device).reshape(first.shape)
    gradients = torch.autograd.grad((first.float() * weights).sum(), list(leaves.values()))
    return [result.detach().cpu() for result in (first, *gradients)]


def check(name: str, free: dict[str, Tensor], others: dict[str, Any], device: str) -> int:
    """How many results are far from the reference's. Says which."""
    wrong = 0
    results = run(name, free, others, device), run(f"{name}_reference", free, others, "cpu")
    for place, (got, wanted) in enumerate(zip(*results, strict=True)):
        error = (got - wanted).abs().max().item() / max(wanted.abs().max().item(), 1e-6)
        if not error <= TOLERANCE:  # nor NaN
            what = ["output", *(f"gradient to {key}" for key in free)][place]
            print(f"{name}: {what} ({got.dtype}, {list(got.shape)}) is off by {error:.3g} of its largest value")
            wrong += 1
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.manual_seed(0)
    wrong = 0
    for dtype in DTYPES:
        for case in cases(dtype):
            for deterministic in (False, True) if case[0] == "flow_warp" else (False,):
                torch.use_deterministic_algorithms(deterministic, warn_only=True)
                wrong += check(*case, args.device)
    print(f"{wrong} results are wrong" if wrong else f"all ops agree with their references on {args.device}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
