"""Tensors that lie in a file and have not been read: checked first, then read one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from legato.models.containers.source import Source

MAX_DIMENSIONS = 8
Step = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class Storage:
    """A run of numbers in a file. torch's older format tells only at its end where they lie."""

    source: Source
    offset: int  # bytes
    length: int  # elements
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A dense tensor in a storage, and what is to be done to it once it is read."""

    storage: Storage
    first: int  # element of the storage
    stored_shape: tuple[int, ...]
    stride: tuple[int, ...]  # elements
    name: str = ""  # as the file calls it, for messages
    steps: tuple[Step, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    @property
    def nbytes(self) -> int:
        """In the file."""
        return math.prod(self.stored_shape) * self.dtype.itemsize

    @property
    def shape(self) -> tuple[int, ...]:
        """After the steps, which are tried on a tensor without memory. ValueError where one of them does not fit."""
        if not self.steps:
            return self.stored_shape
        try:
            return tuple(self._finished(torch.empty(self.stored_shape, dtype=self.dtype, device="meta")).shape)
        except (IndexError, RuntimeError, ValueError) as error:
            raise ValueError(f"{self.name} is {list(self.stored_shape)}, which is no shape for it") from error

    def then(self, *steps: Step) -> StoredTensor:
        """The same with more to do."""
        return replace(self, steps=(*self.steps, *steps))

    def read(self) -> Tensor:
        """In memory of its own, contiguous, in the dtype of the file."""
        flat = torch.empty(math.prod(self.stored_shape), dtype=self.dtype)
        start = self.storage.offset + self.first * self.dtype.itemsize
        if flat.numel():
            self.storage.source.read_into(start, flat.view(torch.uint8).numpy().data)
        return self._finished(flat.as_strided(self.stored_shape, self.stride)).contiguous()

    def _finished(self, tensor: Tensor) -> Tensor:
        for step in self.steps:
            tensor = step(tensor)
        return tensor


def stored_tensor(storage: Storage, first: Any, shape: Any, stride: Any = None, *, name: str = "") -> StoredTensor:
    """Raises ModelFileError unless the numbers say where each element of a dense tensor lies inside the storage."""
    source = storage.source
    source.count(tensors=1)
    sizes = (shape, stride) if stride is not None else (shape,)
    for numbers in sizes:
        whole = isinstance(numbers, tuple) and len(numbers) <= MAX_DIMENSIONS
        if not whole or not all(type(n) is int and 0 <= n < 2**40 for n in numbers):
            raise source.damaged("a tensor has no shape that makes sense")
    stride = contiguous_stride(shape) if stride is None else stride
    if type(first) is not int or first < 0 or len(stride) != len(shape):
        raise source.damaged("a tensor has no shape that makes sense")
    numel = math.prod(shape)
    if first + numel > storage.length:
        raise source.damaged(f"a tensor of {list(shape)} does not fit in its storage of {storage.length} numbers")
    if numel and not _dense(shape, stride):
        raise source.refusal(f"holds a tensor of {list(shape)} that has overlaps or gaps. Save it contiguous")
    return StoredTensor(storage, first, shape, stride if numel else contiguous_stride(shape), name)


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a tensor whose last dimension runs fastest."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether some order of the dimensions makes the tensor contiguous: channels last, or a transposed weight."""
    expected = 1
    for step, size in sorted((step, size) for step, size in zip(stride, shape, strict=True) if size > 1):
        if step != expected:
            return False
        expected *= size
    return True
