"""What each code of a multi-code inversion does to its picture, as a picture (`inversion.roles`)."""

from __future__ import annotations

import torch
from torch import Tensor

from legato.inversion.multi_code import Composition
from legato.inversion.roles import roles
from legato.models import Generator
from legato.offline.sheets import labeled
from legato.synthetic.dataset import to_uint8


def roles_sheet(generator: Generator, composition: Composition) -> tuple[Tensor, list[list[float]]]:
    """(picture uint8 [H, W, 3], share of the importances' magnitude [B][N]).

    A row for each image: the whole, then, for each code, where the picture changes without its important channels,
    brighter for more, on one scale a row.
    """
    found = roles(generator, composition)
    with torch.no_grad():
        whole = composition.image(generator).clamp(-1.0, 1.0)
    brightest = found.difference.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    maps = (found.difference / brightest * 2 - 1)[:, :, None].expand(-1, -1, 3, -1, -1)
    pictures = to_uint8(torch.cat([whole[:, None], maps], 1)).permute(0, 1, 3, 4, 2).cpu().numpy()
    shares = [[round(float(share), 4) for share in row] for row in found.importance]
    rows = [(f"image {number}", row) for number, row in enumerate(pictures)]
    columns = ["all codes", *(f"without code {n}" for n in range(maps.shape[1]))]
    return torch.from_numpy(labeled(rows, columns)), shares
