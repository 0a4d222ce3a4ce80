"""What each code of a multi-code inversion is for (Gu et al. 2020, section 4.4), and what each layer can express."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from legato.inversion.multi_code import Composition, MultiCodeOptions, multi_code
from legato.losses import psnr
from legato.models import Generator


@dataclass(frozen=True, slots=True, eq=False)
class Roles:
    """What each of N codes does to its image."""

    importance: Tensor  # [B, N]: its share of the importances' magnitude, summing to 1
    difference: Tensor  # [B, N, R, R]: mean absolute change of the image without the code's important channels
    area: Tensor  # [B, N, R, R] bool: where that is large

    def overlap(self, segmentation: Tensor) -> Tensor:
        """IoU of each code's area with each class of a segmentation bool [B, K, R, R]: [B, N, K]; 0 where both are
        empty."""
        area, classes = self.area[:, :, None].flatten(3), segmentation.bool()[:, None].flatten(3)
        both, either = (area & classes).sum(3), (area | classes).sum(3)
        return both / either.clamp_min(1)


@torch.no_grad()
def roles(generator: Generator, composition: Composition, *, important: float = 0.2, quantile: float = 0.8) -> Roles:
    """The role of each code: its important channels are turned off, and the image is compared.

    Args:
        generator: of the composition.
        composition: what an inversion found.
        important: a channel's importance above this fraction of the code's largest is turned off. The paper takes 0.2
            itself, of importances that its optimizer brings to the order of 1.
        quantile: the area is where the difference is above this quantile of its values.
    """
    weights = composition.importances
    whole = composition.image(generator)
    found = []
    for n in range(weights.shape[1]):
        magnitude = weights[:, n].abs()
        without = weights.clone()
        without[:, n] *= magnitude <= important * magnitude.amax(1, keepdim=True)
        found.append((replace(composition, importances=without).image(generator) - whole).abs().mean(1))
    difference = torch.stack(found, 1)
    limit = difference.flatten(2).quantile(quantile, dim=2)[:, :, None, None]
    share = weights.abs().sum(2)
    return Roles(share / share.sum(1, keepdim=True), difference, difference > limit)


def by_layer(
    generator: Generator,
    images: Tensor,  # [B, 3, R, R]
    resolutions: Sequence[int],
    options: MultiCodeOptions,
) -> Mapping[int, Tensor]:
    """PSNR in dB [B] by the block after which the codes meet.

    In the paper shallow blocks give what the generator knows, and the last ones give anything: high layers hold local
    patterns of pixels, low and middle ones what is in the picture.
    """
    found = {}
    for resolution in resolutions:
        result = multi_code(generator, images, options=replace(options, resolution=resolution))
        with torch.no_grad():
            found[resolution] = psnr(result.composition.image(generator), images)
    return found
