"""Where a model computes: the CPU directly, a GPU by captured graphs, with its transfers beside its work."""

from legato.devices.device import Device, Function, Run, Wait, anywhere, direct, onto
from legato.devices.failures import in_words, watched
from legato.devices.graphs import Captured, Graphs, NotCaptured
from legato.devices.opening import find_device, open_device

__all__ = [
    "Captured",
    "Device",
    "Function",
    "Graphs",
    "NotCaptured",
    "Run",
    "Wait",
    "anywhere",
    "direct",
    "find_device",
    "in_words",
    "onto",
    "open_device",
    "watched",
]
