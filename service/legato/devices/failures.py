"""Errors of a device: those that pass, and those after which it is of no use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from legato.devices.device import Device
from legato.errors import DeviceLost


@contextmanager
def watched(device: Device) -> Iterator[None]:
    """Inside, an error after which the device does not compute any more is raised as DeviceLost.

    An illegal address, a failed assertion or a memory error on a GPU spoils everything that this process does on it
    from then on; what they are called differs from op to op, so the device itself is asked.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if device.usable():
            raise
        raise DeviceLost(
            f"the device {device.place} has failed and computes nothing any more ({in_words(error)}); this process "
            "ends. Use another server; here, look at the device and start the server again"
        ) from error


def in_words(error: BaseException) -> str:
    """The first line of what torch says, of which there may be a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
