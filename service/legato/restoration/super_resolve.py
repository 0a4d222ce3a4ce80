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

    Where the small image was made by averaging, as a camera or an editor does, `antialias` says so. With `consistent`
    the result is brought to agree with the small image, by one back-projection (Irani and Peleg 1991): what that has
    and the generator cannot make is added. The released code saves what was made as it is: consistent=False.
    """

    factor: int
    antialias: bool = False
    consistent: bool = True
    name: str = "super_resolve"

    def __post_init__(self) -> None:
        if self.factor not in FACTORS:
            raise InvalidInput(f"images are super-resolved by one of {list(FACTORS)}; got {self.factor}")

    def apply(self, image: Tensor) -> Tensor:
        side = image.shape[-1] // self.factor
        return F.interpolate(image, (side, side), mode="bilinear", align_corners=False, antialias=self.antialias)

    def finish(self, made: Tensor, degraded: Tensor) -> Tensor:
        """What was made, and in it what the small image says against it."""
        made = made.clamp(-1.0, 1.0)
        return (made + self._enlarged(degraded - self.apply(made))).clamp(-1.0, 1.0) if self.consistent else made

    def baseline(self, degraded: Tensor) -> Tensor:
        """Bicubic."""
        return self._enlarged(degraded).clamp(-1.0, 1.0)

    def _enlarged(self, image: Tensor) -> Tensor:
        side = image.shape[-1] * self.factor
        return F.interpolate(image, (side, side), mode="bicubic", align_corners=False)
