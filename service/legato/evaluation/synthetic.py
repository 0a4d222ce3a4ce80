"""The synthetic protocol: clips that the generator made itself, so that their latents are known.

Xu et al. 2021 evaluate on synthetic frames whose recipe is not published; this is a reconstruction: a random code (psi
0.7) moved along a direction in equal steps over [-3, 3].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from legato.editing.directions import Directions
from legato.errors import InvalidInput
from legato.evaluation.editability import TrueEdit
from legato.evaluation.known import KnownClip, Protocol, away_by_reading
from legato.evaluation.metrics import Motion, estimated_motion
from legato.models.attributes import AttributeNetwork
from legato.models.generator import Generator
from legato.synthetic.dataset import to_uint8

TRUNCATION, REACH = 0.7, 3.0
ALONG = ("yaw", "smile", "mouth_open")  # clips take turns; directions that a model does not have are passed over
_BATCH = 16


@torch.no_grad()
def synthetic_clips(
    generator: Generator,
    directions: Directions,
    *,
    clips: int = 12,
    frames: int = 8,
    attributes: Sequence[str] = (),
    strength: float = 1.0,
    seed: int = 0,
    network: AttributeNetwork | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Protocol:
    """Clips along the generator's own directions, in standard deviations of their attribute.

    The true edit of a clip is the generator's own: its image of the true code moved. `network` tells which way there
    is something to move, as with rendered clips; without it edits go up. Raises InvalidInput for a direction that is
    not there.
    """
    along = [name for name in ALONG if name in directions.names] or list(directions.names[:3])
    if not along:
        raise InvalidInput("the synthetic protocol moves codes along named directions, and the model has none")
    for name in attributes:
        directions.info(name)  # raises for one that is not there
    z = torch.randn(clips, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    codes = generator.map(z.to(generator.w_avg.device), TRUNCATION)
    reach = torch.linspace(-REACH, REACH, frames).to(codes) if frames > 1 else codes.new_zeros(1)
    found = []
    for number, code in enumerate(codes):
        direction = along[number % len(along)]
        latents = code + reach[:, None, None] * directions.vector(direction).to(codes)
        images = _draw(generator, latents)
        truths = {}
        for name in attributes:
            amount = away_by_reading(network, images, name, strength)
            moved = _draw(generator, latents + amount * directions.vector(name).to(codes))
            truths[name] = TrueEdit(moved, torch.full((frames,), amount))
        label = f"sample {number} along {direction}"
        found.append(KnownClip(label, images, motion_of(images), "estimated", latents.cpu(), truths))
        progress(number + 1, clips)
    settings = {"protocol": "synthetic", "clips": clips, "frames": frames, "seed": seed, "along": along}
    settings |= {"attributes": list(attributes), "strength": strength}
    about = (
        f"{clips} synthetic clips of {frames} frames: codes of random z (seed {seed}, psi {TRUNCATION}) moved along "
        f"{', '.join(along)} in turn, in equal steps over [-{REACH:g}, {REACH:g}] standard deviations; latents are "
        "exact, a true edit is the generator's own of the true code, flow is estimated (DIS)"
    )
    return Protocol("synthetic", about, settings, tuple(found))


def motion_of(frames: Tensor) -> Motion | None:
    """Estimated motion of frames [T, 3, R, R]; None of a single one."""
    return estimated_motion(to_uint8(frames).permute(0, 2, 3, 1).contiguous().numpy()) if len(frames) > 1 else None


def _draw(generator: Generator, latents: Tensor) -> Tensor:
    """Images on the CPU as they are shown, not rounded: the code that makes them is exact."""
    return torch.cat([generator(some).clamp(-1, 1).float().cpu() for some in latents.split(_BATCH)])
