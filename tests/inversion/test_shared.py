"""What frames share: the parametrizations against the sums written out."""

from __future__ import annotations

import pytest
import torch

from legato.inversion.shared import Share, SharedCode
from tests.tolerances import DIFFERENCE_ROUNDING, EXACT

CLIPS, FRAMES, LAYERS, DIM = 2, 4, 3, 5
SIZES: dict[Share, int] = {
    "released": LAYERS * DIM + (FRAMES - 1) * DIM,
    "static": LAYERS * DIM,
    "static_steps": LAYERS * DIM + FRAMES * DIM,
    "static_gains": LAYERS * DIM + FRAMES * DIM + LAYERS,
    "free": FRAMES * LAYERS * DIM,
}


@pytest.mark.parametrize("share", SIZES)
def test_starts_are_what_is_known_and_rows_are_windows(share: Share) -> None:
    base = torch.randn(CLIPS, FRAMES, LAYERS, DIM)
    code = SharedCode(base, share)
    expected = base[:, :1].expand_as(base) if share == "released" else base
    torch.testing.assert_close(code.latents(*code.start), expected.flatten(0, 1), **EXACT)
    assert {len(start) for start in code.start} == {CLIPS}
    assert sum(start[0].numel() for start in code.start) == SIZES[share]


@pytest.mark.parametrize("share", SIZES)
def test_codes_are_the_sums_written_out(share: Share) -> None:
    base = torch.randn(CLIPS, FRAMES, LAYERS, DIM)
    code = SharedCode(base, share)
    free = tuple(torch.randn_like(start) for start in code.start)
    found = code.latents(*free).view(CLIPS, FRAMES, LAYERS, DIM)
    for clip in range(CLIPS):
        for frame in range(FRAMES):
            for layer in range(LAYERS):
                known, own = base[clip, frame, layer], [tensor[clip] for tensor in free]
                match share:
                    case "released":  # identity (a): cumulative sums of layer-shared steps
                        wanted = own[0][layer] + sum((own[1][k] for k in range(frame)), start=torch.zeros(DIM))
                    case "static":
                        wanted = known + own[0][layer]
                    case "static_steps":
                        wanted = known + own[0][layer] + own[1][frame]
                    case "static_gains":
                        wanted = known + own[0][layer] + own[2][layer] * own[1][frame]
                    case "free":
                        wanted = known + own[0][frame, layer]
                torch.testing.assert_close(found[clip, frame, layer], wanted, **DIFFERENCE_ROUNDING)
