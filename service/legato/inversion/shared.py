"""What the frames of one clip share: codes of several images that are free together (Xu et al. 2021).

With a window of N frames and k = 1..N-1, all of them N x L x D latents of fewer free numbers:

    released        w_n = w_1 + sum_{k<n} 1_L n_k          w_1 [L, D], n_k [D]: layer-shared steps between frames
    static          w_n = b_n + c                          c [L, D]: one correction of all frames
    static_steps    w_n = b_n + c + 1_L n_n                and a layer-shared step for each frame
    static_gains    w_n = b_n + c + g n_n                  and a gain for each layer, g [L]
    free            w_n = b_n + c_n                        c_n [L, D]: nothing is shared

where b_n is known: E(x_n). "released" is the paper's mutually accessible constraint as its code has it: hard, by
parametrization, and without scales. "static" says that what the encoder gets wrong about a person it gets wrong in
every frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from legato.inversion.code import Code

Share = Literal["released", "static", "static_steps", "static_gains", "free"]


@dataclass(frozen=True, slots=True, eq=False)
class SharedCode(Code):
    """The codes of C windows of N frames; rows are windows, images window by window: [C * N, ...]."""

    base: Tensor  # [C, N, L, D]: b_n; of "released" the first frame's is where w_1 begins, the others are not used
    share: Share

    @property
    def start(self) -> tuple[Tensor, ...]:
        clips, frames, layers, dim = self.base.shape
        steps = self.base.new_zeros(clips, frames, dim)
        correction = self.base.new_zeros(clips, layers, dim)
        match self.share:
            case "released":
                return self.base[:, 0], steps[:, 1:]
            case "static":
                return (correction,)
            case "static_steps":
                return correction, steps
            case "static_gains":
                return correction, steps, self.base.new_ones(clips, layers)
            case "free":
                return (torch.zeros_like(self.base),)

    def latents(self, *free: Tensor) -> Tensor:
        match self.share:
            case "released":
                first, steps = free
                codes = torch.cat([first[:, None], first[:, None] + steps.cumsum(1)[:, :, None]], 1)
            case "free":
                codes = self.base + free[0]
            case _:
                codes = self.base + free[0][:, None]
                if len(free) > 1:
                    steps = free[1][:, :, None]
                    codes = codes + (steps if len(free) == 2 else steps * free[2][:, None, :, None])
        return codes.flatten(0, 1)
