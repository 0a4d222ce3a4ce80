"""What every method wants of its images."""

from __future__ import annotations

from torch import Tensor

from legato.errors import InvalidImage


def check_images(images: Tensor, name: str = "images", part: str = "image") -> None:
    """Raises InvalidImage unless `images` is [B, 3, R, R], B >= 1, of finite pixels; tells the first that is not."""
    if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or 0 in images.shape:
        raise InvalidImage(f"{name} are [B, 3, R, R]; got {list(images.shape)}")
    if not images.isfinite().all():
        bad = int((~images.isfinite()).flatten(1).any(1).nonzero()[0])
        raise InvalidImage(f"pixels are finite numbers; {part} {bad} of the {name} holds NaN or infinity. Leave it out")
