"""Several processes on one training, one a GPU: torchrun starts them, gradients are averaged before every step.

All of them draw the same random numbers for a whole batch and take their own rows of it, so that what is seen does not
depend on how many they are and one random state in the checkpoint is that of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from legato.errors import ConfigError


class Group:
    """The processes of a training: this one is number `rank` of `size`; number 0 alone writes files."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """Every size-th row, from this process's own on."""
        return rows[self.rank :: self.size]

    def check(self, batch: int) -> None:
        """Raises ConfigError unless a batch can be dealt out evenly."""
        if batch % self.size:
            raise ConfigError(f"a batch of {batch} images cannot be dealt out evenly to {self.size} processes")

    def mean_(self, tensor: Tensor) -> Tensor:
        """The tensor, in place, as its mean over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def agree(self, *said: bool) -> tuple[bool, ...]:
        """What the first process says, in all."""
        if self.size == 1:
            return said
        told = torch.tensor(said, dtype=torch.uint8, device=self._device)
        dist.broadcast(told, 0)
        return tuple(bool(value) for value in told.tolist())

    def follow(self, *optimizers: torch.optim.Optimizer) -> None:
        """From now on each step of the optimizers takes the mean over the processes of the gradients."""
        if self.size > 1:
            for optimizer in optimizers:
                optimizer.register_step_pre_hook(self._average)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process goes first, and what it wrote is there for the others."""
        if not self.leads:
            dist.barrier()
        yield
        if self.leads and self.size > 1:
            dist.barrier()

    def _average(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        flat = self.mean_(torch.cat([grad.reshape(-1) for grad in grads]))
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    @property
    def _device(self) -> str:
        return "cuda" if dist.get_backend() == "nccl" else "cpu"


ALONE = Group()


def join(device: str) -> tuple[Group, str]:
    """The group that torchrun started this process in, and its own device: cuda becomes cuda:LOCAL_RANK.

    Without torchrun the process is alone. Raises ConfigError for more processes than GPUs.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return ALONE, device
    if device.startswith("cuda"):
        local = dist.get_node_local_rank()
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"torchrun started process {local} of this machine, which has {torch.cuda.device_count()} GPUs. Give "
                "--nproc-per-node as many as there are, or --device cpu"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Group(dist.get_rank(), dist.get_world_size()), device


def leave() -> None:
    """Ends what `join` began."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
