"""Twofold upsampling of the running RGB image (StyleGAN2's skip architecture, Karras et al. 2020, fig. 7).

`to_rgb_reference`, which training runs, is made of it; inference upsamples inside `to_rgb`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from legato.ops._check import check_image


def upsample2d(
    image: Tensor,  # [B, C, H, W]
) -> Tensor:  # [B, C, 2H, 2W]
    """Insert zeros and filter with [1,3,3,1] x [1,3,3,1], zeros outside the image; plain torch on every device.

    The twofold bilinear kernel is that filter, so bilinear interpolation of the image with a border of one zero is
    exactly it. Raises ValueError unless the image is [B,C,H,W], TypeError unless it is floating point.
    """
    check_image("upsample2d", "image", image, "[B,C,H,W]")
    bordered = F.interpolate(F.pad(image, (1, 1, 1, 1)), scale_factor=2, mode="bilinear", align_corners=False)
    return bordered[:, :, 2:-2, 2:-2]
