"""The device that --device names, and what serves a model on it."""

from __future__ import annotations

import torch

from legato.devices.cuda import CudaDevice
from legato.devices.device import Device
from legato.errors import ConfigError


def find_device(name: str) -> torch.device:
    """cpu, cuda, cuda:N, or auto: a GPU where there is one. Raises ConfigError for one that torch does not find."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device is cpu, cuda, cuda:N or auto; got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name} asks for a GPU that torch does not find; it finds {torch.cuda.device_count()}"
        )
    return device


def open_device(place: torch.device) -> Device:
    """What runs a model that lies on `place`. Raises ConfigError for a kind of device that nothing here knows."""
    if place.type == "cuda":
        return CudaDevice(place)
    if place.type == "cpu":
        return Device(place)
    raise ConfigError(f"a model is served on the CPU or on a CUDA device; this one lies on {place}")
