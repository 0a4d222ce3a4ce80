"""What an engine is built with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from legato.answering import IMAGE_SIZES
from legato.inversion.streaming import TrackerOptions
from legato.inversion.window import WindowOptions
from legato.models.flow import FlowFinder
from legato.turns import Turns

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Capacity and work per frame."""

    max_sessions: int = 16
    batch_buckets: tuple[int, ...] = (1, 2, 4, 8)  # warmed before the engine is ready; the queue forms these
    in_flight: int = 32  # frames between two of their stages
    max_steps: int = 16
    threads: int = 0  # of torch on the CPU; 0 leaves them as they are
    precision: Precision = "auto"  # inside the convolutions; auto: bfloat16 where the device multiplies it natively
    clips: int = 4  # whole clips that may wait or be worked on
    clip_rows: int = 2  # frames of a clip that are computed at a time; a live frame waits for so many
    deltas: str = ""  # folder of the deltas that sessions may have; "": none
    tracker: TrackerOptions = field(default_factory=TrackerOptions)
    window: WindowOptions = field(default_factory=WindowOptions)
    flow: FlowFinder | None = None  # between frames that come without; None: DIS
    turns: Turns = field(default_factory=Turns, compare=False)  # on the device, one for all engines that share it

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """How many images are synthesized at a time: reconstructions and edited ones of all frames in a batch."""
        return (*IMAGE_SIZES, *(size for size in self.batch_buckets if size > IMAGE_SIZES[-1]))


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype inside the convolutions. bfloat16 pays where the device multiplies it natively, and only there."""
    native = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and native) else torch.float32
