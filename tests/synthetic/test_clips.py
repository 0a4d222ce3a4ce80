"""Motion: the same for the same seeds, smooth where a head is, quick where eyes are, at the rates of people."""

from __future__ import annotations

from importlib.resources import files

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from legato.synthetic.clips import RUN, clip_flow, clip_z, render_clip, run_z
from legato.synthetic.dataset import to_uint8
from legato.synthetic.factors import ATTRIBUTES, MOTION, MOTION_START, attributes_of, sample_z
from legato.synthetic.flow import exact_flow
from legato.synthetic.renderer import Renderer
from tests.tolerances import CLIP_PSNR_DB, EXACT

MINUTE = 1500  # frames


def attribute(z: Tensor, name: str) -> Tensor:
    return attributes_of(z)[:, ATTRIBUTES.index(name)]


def runs(active: Tensor) -> list[tuple[int, int]]:
    """(first frame, length) of each stretch of True."""
    edges = torch.diff(
        active.int(), prepend=torch.zeros(1, dtype=torch.int32), append=torch.zeros(1, dtype=torch.int32)
    )
    starts, stops = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
    return [(start, stop - start) for start, stop in zip(starts, stops, strict=True)]


def test_a_clip_follows_from_its_seeds() -> None:
    z = clip_z(3, 1, 80)
    torch.testing.assert_close(clip_z(3, 1, 80), z, **EXACT)
    torch.testing.assert_close(clip_z(3, 1, 200)[:80], z, **EXACT)
    motion = slice(MOTION_START, MOTION_START + len(MOTION))
    others = [clip_z(3, 2, 80), clip_z(4, 1, 80), clip_z(3, 1, 80, "train")]
    assert all((other[:, motion] != z[:, motion]).any(1).all() for other in others)


def test_runs_show_one_head_that_moves_and_another_in_the_next() -> None:
    z = run_z(range(3 * RUN)).view(3, RUN, -1)
    torch.testing.assert_close(run_z(range(RUN + 1, 2 * RUN)), z[1, 1:], **EXACT)
    who, how = z[..., :MOTION_START], z[..., MOTION_START : MOTION_START + len(MOTION)]
    assert torch.equal(who, who[:, :1].expand_as(who))
    assert (who[0, 0] != who[1, 0]).all()
    assert (how.diff(dim=1) != 0).any(2).all()
    assert not torch.equal(run_z(range(RUN), "eval"), z[0])
    single = sample_z(range(3), "train")[:, :MOTION_START]
    assert not any(torch.equal(a, b) for a in who[:, 0] for b in single)


def test_the_head_is_that_of_its_seed_throughout() -> None:
    z, head = clip_z(3, 1, 40), sample_z([3], "eval")
    stop = MOTION_START + len(MOTION)
    torch.testing.assert_close(z[:, :MOTION_START], head[:, :MOTION_START].expand(40, -1), **EXACT)
    torch.testing.assert_close(z[:, stop:], head[:, stop:].expand(40, -1), **EXACT)


def test_a_second_is_a_second_at_any_frame_rate() -> None:
    slow, fast = clip_z(5, 0, 50, fps=25), clip_z(5, 0, 100, fps=50)
    torch.testing.assert_close(fast[::2], slow, **EXACT)


@pytest.mark.parametrize("clip", range(4))
def test_heads_move_smoothly_and_within_what_was_trained(clip: int) -> None:
    z = clip_z(clip, clip, MINUTE)
    motion = z[:, MOTION_START : MOTION_START + len(MOTION)]
    assert motion.isfinite().all()
    assert motion.abs().max() <= 2.1
    for name, step in (("yaw", 0.05), ("pitch", 0.05), ("roll", 0.02), ("smile", 0.3), ("brow_raise", 0.3)):
        values = attribute(z, name)
        assert values.diff().abs().max() < step, name
        assert values.std() > values.diff().abs().max() / 2, name  # it does move
    assert attribute(z, "yaw").max() > 0.25
    assert attribute(z, "yaw").min() < -0.25


@pytest.mark.parametrize("clip", range(3))
def test_people_blink_every_few_seconds(clip: int) -> None:
    blink = attribute(clip_z(clip, 7, 4 * MINUTE), "blink")
    blinks = runs(blink > 0.02)
    assert 4 * 60 / 5.5 < len(blinks) < 4 * 60 / 2
    assert all(2 <= length <= 8 for _, length in blinks)
    assert all(blink[start : start + length].max() > 0.9 for start, length in blinks)
    gaps = torch.tensor([start for start, _ in blinks]).diff()
    assert gaps.min() >= 50
    assert gaps.max() <= 5.5 * 25


def test_talk_comes_in_bursts_of_syllables() -> None:
    mouth = attribute(clip_z(2, 0, 2 * MINUTE), "mouth_open")
    assert 0.25 < (mouth > 0.05).float().mean() < 0.8
    silences = [length for _, length in runs(mouth < 0.05)]
    assert sum(length > 12 for length in silences) > 15, "pauses between bursts"
    syllables = [length for _, length in runs(mouth > 0.25)]
    assert len(syllables) > 60
    assert sorted(syllables)[len(syllables) // 2] < 10


def test_eyes_jump_between_fixations() -> None:
    """While the head turns they keep to their target, unless they are at the end of their range."""
    z = clip_z(6, 3, 2 * MINUTE)
    gaze = attribute(z, "gaze_x")
    step = (gaze + attribute(z, "yaw")).diff().abs()
    assert (step < 1e-4).float().mean() > 0.6
    free = gaze.abs() < 0.43
    jumps = [length for _, length in runs((step > 0.03) & free[1:] & free[:-1])]
    assert len(jumps) > 20
    assert max(jumps) <= 3


@pytest.mark.parametrize(("frames", "fps"), [(0, 25.0), (-1, 25.0), (10, 0.0), (10, float("nan"))])
def test_lengths_that_cannot_be_are_refused(frames: int, fps: float) -> None:
    with pytest.raises(ValueError, match="got"):
        clip_z(0, 0, frames, fps=fps)


def test_a_clip_is_rendered_frame_by_frame() -> None:
    renderer = Renderer(32, 1)
    done: list[int] = []
    clip = render_clip(renderer, 4, 2, 11, progress=done.append)
    assert clip.images.shape == (11, 32, 32, 3)
    assert clip.images.dtype == np.uint8
    assert sum(done) == 11
    torch.testing.assert_close(clip.z, clip_z(4, 2, 11), **EXACT)
    torch.testing.assert_close(clip.attributes, attributes_of(clip.z), **EXACT)
    frame = to_uint8(renderer(clip.z[8:]).image)[0].permute(1, 2, 0)
    np.testing.assert_array_equal(clip.images[8], frame.numpy())


def test_flow_of_a_clip_is_from_the_frame_before() -> None:
    z = clip_z(4, 2, 11)
    done: list[int] = []
    flow, visible = clip_flow(z, 32, progress=done.append)
    assert flow.shape == (10, 2, 32, 32)
    assert visible.shape == (10, 1, 32, 32)
    assert sum(done) == 10
    expected, seen = exact_flow(z[9:], z[8:10], 32)
    torch.testing.assert_close(flow[8:], expected, **EXACT)
    torch.testing.assert_close(visible[8:], seen, **EXACT)
    alone, _ = clip_flow(z[:1], 32)
    assert alone.shape == (0, 2, 32, 32)


def test_the_bundled_clip_is_held_out_head_21() -> None:
    """150 frames of 128 pixels, as `legato render --clip clip.mp4 --identity 21 --motion 13` writes them."""
    path = files("legato") / "assets" / "heads-128" / "clip.mp4"
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 25
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 150
    assert frames[0].shape == (128, 128, 3)
    picked = [0, 70, 149]
    images = to_uint8(Renderer(128, 2)(clip_z(21, 13, 150)[picked]).image).permute(0, 2, 3, 1).numpy()
    error = np.mean((np.stack([frames[i] for i in picked]).astype(float) - images) ** 2)
    assert 10 * np.log10(255**2 / error) > CLIP_PSNR_DB
