"""Super-resolution: a small image is known (Gu et al. 2020, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from legato.errors import InvalidInput

FACTORS = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class SuperResolve:
    """The image is seen at 1 / factor of its resolution: bilinear, and without a filter against aliasing as released.

    Where the small image was made by averaging, as a camera or an editor does, `antialias` says so.
    """

    factor: int
    antialias: bool = False
    name: str = "super_resolve"

    def __post_init__(self) -> None:
        if self.factor not in FACTORS:
            raise InvalidInput(f"images are super-resolved by one of {list(FACTORS)}; got {self.factor}")

    def apply(self, image: Tensor) -> Tensor:
        side = image.shape[-1] // self.factor
        return F.interpolate(image, (side, side), mode="bilinear", align_corners=False, antialias=self.antialias)

    def finish(self, made: Tensor, degraded: Tensor) -> Tensor:
        """What was made, as it is."""
        return made.clamp(-1.0, 1.0)

    def baseline(self, degraded: Tensor) -> Tensor:
        """Bicubic."""
        side = degraded.shape[-1] * self.factor
        return F.interpolate(degraded, (side, side), mode="bicubic", align_corners=False).clamp(-1.0, 1.0)
