"""Loads the extension `legato._C` at first use and says which backend each op has. Nothing happens at import."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from legato.errors import BackendUnavailable

NATIVE_OPS = ("modulated_conv2d", "to_rgb", "flow_warp", "photometric_error")
PLAIN_OPS = ("upsample2d",)  # plain torch on every device
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # that the kernels know

_registrations: list[Callable[[], None]] = []
_loading = threading.Lock()
_backends: dict[str, frozenset[str]] = {}  # op -> device types; empty until the extension is loaded


def after_load(register: Callable[[], None]) -> Callable[[], None]:
    """Decorator: run `register` once the extension has defined its ops, to add their fakes and autograd."""
    _registrations.append(register)
    return register


def require(op: str, tensor: Tensor) -> None:
    """Raise BackendUnavailable unless `op` has a kernel for the device of `tensor`, TypeError unless for its dtype."""
    _require_device(op, tensor.device.type)
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{op}: the first argument has to be float32, bfloat16, float16 or float64; got {tensor.dtype}")


def has_kernel(op: str, kind: str) -> bool:
    """Whether `op` runs on devices of this kind, "meta" among them. Raises BackendUnavailable without the extension."""
    with _loading:
        if not _backends:
            _load(op)
    return kind in _backends[op]


# Compiled graphs take the answer as a constant. This is all that torch.compiler.assume_constant_result does, but that
# would import torch._dynamo, a second of start-up for those who compile nothing.
has_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _load(op: str) -> None:
    try:
        importlib.import_module("legato._C")
    except ImportError as error:
        raise BackendUnavailable(
            f"the extension legato._C, which holds the kernel of {op}, cannot be loaded ({error}); build it with "
            "`make setup` or `pip install --no-build-isolation -e .` in the source tree"
        ) from error
    for register in _registrations:
        register()
    _backends.update({name: _device_types(name) for name in NATIVE_OPS})


def live_backends(device: torch.device | str = "cpu") -> dict[str, str]:
    """What serves each op on `device`: op -> "cpu", "cuda"; "torch" (plain torch); "missing" (calling it raises)."""
    kind = torch.device(device).type
    live = dict.fromkeys(PLAIN_OPS, "torch")
    for op in NATIVE_OPS:
        try:
            live[op] = kind if has_kernel(op, kind) else "missing"
        except BackendUnavailable:
            live[op] = "missing"
    return live


def require_backends(device: torch.device | str = "cpu") -> dict[str, str]:
    """`live_backends`, for the start of a server: raises BackendUnavailable, with the remedy, if any is missing."""
    for op in NATIVE_OPS:
        _require_device(op, torch.device(device).type)
    return live_backends(device)


def cuda_half() -> str:
    """The CUDA half of the extension in a line: what it was built for or why it was not, and whether it can run."""
    try:
        missing = [op for op in NATIVE_OPS if not has_kernel(op, "cuda")]
    except BackendUnavailable as error:
        return f"missing: {error}"
    told: str = importlib.import_module("legato._C").cuda_half
    if not told.startswith("built"):
        return told
    if missing:
        told += f", without {', '.join(missing)}"
    if torch.cuda.is_available():
        return f"{told}; live on {torch.cuda.get_device_name()}"
    return f"{told}; idle: " + ("torch finds no GPU" if torch.version.cuda else "this torch is built for the CPU alone")


def _require_device(op: str, kind: str) -> None:
    if not has_kernel(op, kind):
        raise BackendUnavailable(
            f"{op} has no {kind} kernel in this build of legato; move the tensors to the CPU, call {op}_reference "
            f"(plain torch, any device), or build the extension with its {kind} half"
        )


def _device_types(op: str) -> frozenset[str]:
    keys = {"cpu": "CPU", "cuda": "CUDA"}
    found = {kind for kind, key in keys.items() if torch._C._dispatch_has_kernel_for_dispatch_key(f"legato::{op}", key)}
    return frozenset(found | {"meta"})
