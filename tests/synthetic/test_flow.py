"""Exact flow: warping one picture gives the other, and every part moves by its own rule."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from legato.ops.flow_warp import flow_warp_reference
from legato.synthetic import flow as flow_module
from legato.synthetic import shading
from legato.synthetic.factors import MOTION, MOTION_START, Factors, factors_of, sample_z, with_motion
from legato.synthetic.flow import exact_flow
from legato.synthetic.geometry import (
    CAMERA_Y,
    CAMERA_Z,
    HALF_HEIGHT,
    Point,
    align,
    distance,
    head_to_world,
    world_to_head,
)
from legato.synthetic.renderer import Renderer, along
from tests.tolerances import (
    EXACT,
    FLOW_PSNR_DB,
    FLOW_RETURN_PIXELS,
    FLOW_RIGID_PIXELS,
    FLOW_ZERO_PIXELS,
)

SIDE = 64


def eroded(mask: Tensor) -> Tensor:
    """Pixels whose eight neighbors are in the mask, too: what interpolation and supersampling mix is of one surface."""
    return max_pool2d(1 - mask.float(), 3, 1, 1) == 0


def posed(seeds: range, **motion: float) -> Tensor:
    """Eval heads, awake, silent and looking ahead but for `motion` (Gaussian units)."""
    values = torch.zeros(len(seeds), len(MOTION))
    values[:, MOTION.index("mouth_open")] = values[:, MOTION.index("blink")] = -1.5
    for name, value in motion.items():
        values[:, MOTION.index(name)] = value
    return with_motion(sample_z(seeds, "eval"), values)


def stirred(seeds: range, scale: float) -> tuple[Tensor, Tensor]:
    """Eval heads with motions of their own, and the same heads a little later, eyes open."""
    z = sample_z(seeds, "eval")
    a = z[:, MOTION_START : MOTION_START + len(MOTION)].clone()
    b = a + scale * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    a[:, MOTION.index("blink")] = b[:, MOTION.index("blink")] = -1.0
    return with_motion(z, a), with_motion(z, b)


def psnr(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """dB [B] of images in [-1, 1] over a mask [B, 1, R, R]."""
    squares = ((a - b).square().mean(1, keepdim=True) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    return 10 * torch.log10(4 / squares)


class Warped(NamedTuple):
    before: Tensor  # dB of B against A
    after: Tensor  # dB of B warped to A, where visible
    visible: Tensor


def warped(z_a: Tensor, z_b: Tensor, resolution: int) -> Warped:
    renderer = Renderer(resolution, 2)
    a, b = renderer(z_a).image, renderer(z_b).image
    flow, visible = exact_flow(z_a, z_b, resolution)
    back, _ = flow_warp_reference(b, flow)
    return Warped(psnr(b, a, torch.ones_like(visible)), psnr(back, a, eroded(visible)), visible)


def test_warping_gives_the_other_picture() -> None:
    """Pull: B, read at p + flow(p), looks as A does at p."""
    found = warped(*stirred(range(5), 0.35), 128)
    assert found.after.median() >= FLOW_PSNR_DB
    assert (found.after > found.before + 4).all()
    assert found.before.median() < 25
    assert (found.visible.float().mean((1, 2, 3)) > 0.9).all()


def test_what_is_left_is_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shade and highlights, pictures that motion sets 20 dB apart agree better still."""
    z_a, z_b = stirred(range(3), 0.35)
    lit = warped(z_a, z_b, SIDE).after

    def flat(normal: Point, ray: Point, occlusion: Tensor, f: Factors) -> shading._Light:
        return shading._Light(torch.full_like(occlusion, 0.9), torch.zeros_like(occlusion))

    monkeypatch.setattr(shading, "_light", flat)
    unlit = warped(z_a, z_b, SIDE).after
    assert (unlit > lit + 1).all()


def test_no_motion_is_no_flow() -> None:
    """And all is visible but the mouth's inside and what a ray only grazes."""
    z = posed(range(6), yaw=0.5, smile=0.5)
    flow, visible = exact_flow(z, z, SIDE)
    assert flow.abs().max() < FLOW_ZERO_PIXELS
    assert visible.float().mean() > 0.999


def test_the_inside_of_the_mouth_is_never_visible() -> None:
    z = posed(range(4), mouth_open=2.0)
    flow, visible = exact_flow(z, z, SIDE)
    mouth = Renderer(SIDE, 1)(z)
    dark = (mouth.mouth == 1) & ~visible
    assert (dark.sum((1, 2, 3)) > 20).all()
    assert (~visible & (mouth.mouth == 0)).sum() < 20
    assert flow.abs()[visible.expand(-1, 2, -1, -1)].max() < FLOW_ZERO_PIXELS


def test_a_turning_head_moves_rigidly() -> None:
    """Pose alone: hair and skin go where their head points go, found here by another tracing."""
    z_a, z_b = posed(range(4)), posed(range(4), yaw=0.6, pitch=-0.5, roll=0.8)
    flow, visible = exact_flow(z_a, z_b, SIDE)
    a, b = align(factors_of(z_a)), align(factors_of(z_b))
    index, ray, t = Renderer(SIDE, 1).trace(a)
    point = along(ray, t)
    x, y, z = head_to_world(world_to_head(point, a), b)
    scale = CAMERA_Z / HALF_HEIGHT / (CAMERA_Z - z) * SIDE / 2
    expected_x = scale * x + SIDE / 2 - 0.5 - index % SIDE
    expected_y = SIDE / 2 - 0.5 - scale * (y - CAMERA_Y) - index // SIDE
    eyes = Renderer(SIDE, 1)(z_a).eyes.flatten(1).gather(1, index) > 0
    head = (distance(point, a).abs() < 0.003) & (point[1] > -0.35) & ~eyes  # the neck, lower down, does not turn
    seen = visible.flatten(1).gather(1, index) & head
    for axis, expected in enumerate((expected_x, expected_y)):
        error = (flow[:, axis].flatten(1).gather(1, index) - expected).abs()[seen]
        assert len(error) > 2000
        assert error.quantile(0.99) < FLOW_RIGID_PIXELS
    assert expected_x[seen].abs().max() > 2


def test_a_shift_is_seen_through_the_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """B four pixels further to the right, at the depth of the image plane: nearer points move more, none up or down."""
    pixels = 4 * 2 * HALF_HEIGHT / SIDE
    calls: list[Factors] = []

    def shifted(f: Factors) -> Factors:
        calls.append(f)
        f = align(f)
        return f if len(calls) == 1 else {**f, "shift_x": f["shift_x"] + pixels}

    monkeypatch.setattr(flow_module, "align", shifted)
    z = posed(range(3))
    flow, visible = exact_flow(z, z, SIDE)
    object_ = flow[:, :1].abs() > FLOW_ZERO_PIXELS
    moved = flow[:, :1][object_ & visible]
    assert moved.min() > 4 * CAMERA_Z / (CAMERA_Z + 1.3)
    assert moved.max() < 4 * CAMERA_Z / (CAMERA_Z - 1.1)
    assert flow[:, 1].abs().max() < FLOW_ZERO_PIXELS
    assert 0.2 < object_.float().mean() < 0.8
    torch.testing.assert_close(flow[:, :, 0, 0], torch.zeros(3, 2), **EXACT)  # the wall stands still


def test_there_and_back() -> None:
    """What A sees in B, B sees in A, and the two flows undo each other."""
    z_a, z_b = stirred(range(4), 0.35)
    there, seen = exact_flow(z_a, z_b, SIDE)
    back, seen_back = exact_flow(z_b, z_a, SIDE)
    returned, _ = flow_warp_reference(back, there)
    visible_back, _ = flow_warp_reference(seen_back.float(), there)
    inner = eroded(seen)
    assert (visible_back[inner] > 0).float().mean() > 0.998
    both = inner & (visible_back > 0.99)
    error = (there + returned).norm(dim=1, keepdim=True)[both]
    assert error.quantile(0.99) < FLOW_RETURN_PIXELS


@pytest.mark.parametrize(("name", "axis", "sign"), [("gaze_x", 0, 1), ("gaze_y", 1, -1)])
def test_gaze_turns_the_eyeballs_alone(name: str, axis: int, sign: int) -> None:
    """To the right, and up: image y grows downwards."""
    z_a, z_b = posed(range(4)), posed(range(4), **{name: 0.7})
    flow, visible = exact_flow(z_a, z_b, 96)
    eyes = Renderer(96, 1)(z_a).eyes > 0
    moved = visible & (flow.norm(dim=1, keepdim=True) > FLOW_ZERO_PIXELS)
    assert moved.sum() > 100
    assert not (moved & ~eyes).any()
    along_axis = flow[:, axis : axis + 1][moved] * sign
    assert (along_axis > 0).float().mean() > 0.97
    assert along_axis.max() > 0.5


def test_a_lid_slides_and_hides_the_eyeball() -> None:
    """Closing: the ball is seen no more and the lid's edge goes down; opening: no ball was seen that could come."""
    awake, asleep = posed(range(4)), posed(range(4), blink=2.0)
    closing, kept = exact_flow(awake, asleep, 96)
    eyes = Renderer(96, 1)(awake).eyes > 0
    assert (kept & eyes).float().sum() < 0.5 * eyes.sum()
    assert closing[:, 1:][kept & eyes].max() > 2  # pixels downwards
    assert not (~kept & ~max_pool2d(eyes.float(), 5, 1, 2).bool()).float().mean() > 0.002
    opening, found = exact_flow(asleep, awake, 96)
    assert opening[:, 1:][found & eyes].min() < -2
    assert opening.isfinite().all()
    assert closing.isfinite().all()


def test_an_opening_mouth_parts_the_lips() -> None:
    """The chin goes down by more than the upper lip goes up; the forehead stays."""
    z_a, z_b = posed(range(4)), posed(range(4), mouth_open=1.5)
    flow, visible = exact_flow(z_a, z_b, SIDE)
    vertical = torch.where(visible, flow[:, 1:], 0)
    assert (vertical.amax((1, 2, 3)) > 2).all()
    assert (vertical.amin((1, 2, 3)) < -0.3).all()
    assert (vertical.amin((1, 2, 3)) > -vertical.amax((1, 2, 3)) / 2).all()
    assert vertical[:, :, :16].abs().max() < FLOW_ZERO_PIXELS


def test_what_turns_away_is_not_visible() -> None:
    """A large turn hides a cheek; what is visible lies within the other picture."""
    z_a, z_b = posed(range(4), yaw=-1.5), posed(range(4), yaw=1.5)
    flow, visible = exact_flow(z_a, z_b, SIDE)
    assert ((~visible).float().mean((1, 2, 3)) > 0.08).all()
    for position in (torch.arange(SIDE) + flow[:, 0], torch.arange(SIDE)[:, None] + flow[:, 1]):
        assert position[visible[:, 0]].min() > -FLOW_ZERO_PIXELS
        assert position[visible[:, 0]].max() < SIDE - 1 + FLOW_ZERO_PIXELS
    assert flow.isfinite().all()


def test_two_heads_have_no_flow_between_them() -> None:
    with pytest.raises(ValueError, match="differ in identity"):
        exact_flow(sample_z([0]), sample_z([1]), SIDE)


@pytest.mark.parametrize(
    ("a", "b", "resolution"), [((1, 64), (2, 64), 64), ((64,), (64,), 64), ((1, 8), (1, 8), 64), ((1, 64), (1, 64), 0)]
)
def test_arguments_that_do_not_fit_are_refused(a: tuple[int, ...], b: tuple[int, ...], resolution: int) -> None:
    with pytest.raises(ValueError, match=r"exact_flow: .*got"):
        exact_flow(torch.zeros(a), torch.zeros(b), resolution)
