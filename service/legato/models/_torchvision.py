"""torchvision beside a torch of the CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch


@cache
def define_ops() -> Any:
    """torchvision's wheel wants CUDA libraries for the ops that its import names; beside a CPU torch we name them."""
    if torch.version.cuda is not None or hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # kept by the cache: the definitions go with it
