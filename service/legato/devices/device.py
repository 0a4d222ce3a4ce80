"""What the engine asks of a device, and how the CPU does it: at once, in place, without a copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Result = TypeVar("Result", Tensor, tuple[Tensor, ...])
Function = Callable[..., Any]  # tensors [B, ...] -> a tensor or a tuple of tensors [B, ...]
Run = Callable[..., Any]  # name, function, tensors [B, ...] -> what function(*tensors) gives
Wait = Callable[[], list[Tensor]]


def direct(name: str, function: Callable[..., Result], *rows: Tensor) -> Result:
    """function(*rows): how a computation runs where nothing is captured."""
    return function(*rows)


def onto(device: torch.device, tensor: Tensor) -> Tensor:
    """A tensor of the CPU on `device`, without waiting for what the device is doing."""
    if device.type == "cpu":
        return tensor
    if not tensor.numel():
        return torch.empty_like(tensor, device=device)
    return tensor.pin_memory().to(device, non_blocking=True)


def anywhere(mask: Tensor) -> bool:
    """Whether anything of a mask is set, where it costs nothing to know: a device other than the CPU is not asked, and
    the answer is True."""
    return mask.device.type != "cpu" or bool(mask.any())


class Device:
    """The CPU; what else a device is, is in `cuda`. Belongs to the thread that called `enter`.

    `ahead`: calls come back before the device is done, so that the next one can be prepared meanwhile. `pads`: a batch
    takes what the next larger one that was prepared takes.
    """

    ahead = False
    pads = False

    def __init__(self, place: torch.device) -> None:
        self.place = place

    def enter(self) -> None:
        """Called by the thread that will compute, once, before anything else."""

    def run(self, name: str, function: Callable[..., Result], *rows: Tensor) -> Result:
        """function(*rows), where `name` is always the same computation.

        Its rows must not touch each other, as it may be given more of them than these; it may use no tensors but
        `rows` and such as never change, change none of them in place, and read none of them on the host.
        """
        return function(*rows)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Inside, what `run` meets for the first time is prepared to be run often. For the warm-up."""
        yield

    def prepared(self) -> Mapping[str, tuple[int, int]]:
        """Of each name: in how many sizes of a batch it was captured, and in how many it could not be."""
        return {}

    def put(self, tensor: Tensor) -> Tensor:
        """A small tensor of the CPU on the device."""
        return onto(self.place, tensor)

    def upload(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Images uint8 [R, R, 3] as one tensor of the device [N, R, R, 3]."""
        return torch.from_numpy(np.stack(images))

    def fetch(self, *tensors: Tensor) -> Wait:
        """Begins to bring tensors to the CPU; what it gives waits until they are there."""
        return lambda: list(tensors)

    def mark(self) -> Any:
        """Now, on the device's own time, for `seconds`."""
        return time.perf_counter()

    def seconds(self, began: Any, ended: Any) -> float:
        """From one mark to a later one; waits until the device has passed it."""
        return float(ended - began)

    def relieve(self) -> None:
        """Gives back what memory is held without need, after some was missing."""

    def usable(self) -> bool:
        """Whether the device still computes."""
        return True
