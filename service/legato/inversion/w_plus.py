"""W+ optimization (Abdal et al. 2019, Image2StyleGAN): every layer's w is free, each image for itself.

The start is an encoder's code or w_avg; the loss is pixel L1 plus Laplacian-pyramid L1, which need no weights of their
own.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from legato.inversion.code import FreeLatents, Synthesize
from legato.inversion.objective import Objective, pixel, pyramid
from legato.inversion.solve import Inversion, Schedule, solve


def w_plus(
    synthesize: Synthesize,
    images: Tensor,  # [B, 3, R, R] in [-1, 1]
    start: Tensor,  # [B, L, D], or [L, D] or [D] for all images alike
    *,
    layers: int,
    steps: int = 100,
    lr: float = 0.05,
    on_step: Callable[[int], None] | None = None,
) -> Inversion:
    """Latents [B, L, D] whose images come close to `images`; Adam, the rate falling to 0 over the last quarter."""
    initial = start.expand(images.shape[0], layers, start.shape[-1])
    objective = Objective((pixel(images), pyramid(images)))
    return solve(FreeLatents(initial), objective, Schedule(steps, lr, cooldown=0.25), synthesize, on_step=on_step)
