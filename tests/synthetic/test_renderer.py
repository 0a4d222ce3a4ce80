"""Pictures: the same for the same seed, in range, with eyes and mouth where the masks say, moved by their factors."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from legato.synthetic.dataset import to_uint8
from legato.synthetic.factors import MOTION, Factors, attributes_of, factors_of, sample_z, with_motion
from legato.synthetic.geometry import CAMERA_Y, CAMERA_Z, EYE_Z, HALF_HEIGHT, Point, align, head_to_world
from legato.synthetic.renderer import Rendered, Renderer
from tests.tolerances import EXACT, GOLDEN_RENDER_LEVELS

GOLDEN = Path(__file__).with_name("golden.npz")
SIDE = 48


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(SIDE, 1)


def moved(renderer: Renderer, count: int, **motion: float) -> Rendered:
    """Eval heads, calm and looking ahead but for `motion` (Gaussian units)."""
    values = torch.zeros(count, len(MOTION))
    values[:, MOTION.index("mouth_open")] = values[:, MOTION.index("blink")] = -1.5
    for name, value in motion.items():
        values[:, MOTION.index(name)] = value
    return renderer(with_motion(sample_z(range(count), "eval"), values))


def center(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean x and y [B] in pixels of masks [B, 1, R, R]."""
    weight = mask[:, 0] / mask.sum((1, 2, 3), keepdim=True)[:, 0]
    axis = torch.arange(mask.shape[-1], dtype=mask.dtype)
    return (weight.sum(1) * axis).sum(1), (weight.sum(2) * axis).sum(1)


def pixel_of(point: Point, f: Factors) -> tuple[Tensor, Tensor]:
    """Column and row [B] of the pixel that shows a point of head space [B, 1]."""
    x, y, z = head_to_world(point, f)
    scale = CAMERA_Z / HALF_HEIGHT / (CAMERA_Z - z)
    column, row = (scale * x + 1) * SIDE / 2, (1 - scale * (y - CAMERA_Y)) * SIDE / 2
    return column[:, 0].long(), row[:, 0].long()


def test_the_same_seed_gives_the_same_picture_in_any_batch(renderer: Renderer) -> None:
    z = sample_z(range(4), "eval")
    together, again, alone = renderer(z), renderer(z), renderer(z[2:3])
    torch.testing.assert_close(together.image, again.image, **EXACT)
    torch.testing.assert_close(together.attributes, attributes_of(z), **EXACT)
    difference = (together.image[2:3] - alone.image).abs()
    assert (difference > 0).float().mean() < 0.01, "a vector instruction may round otherwise at the end of a row"


def test_pictures_are_those_that_the_default_model_was_trained_on() -> None:
    """golden.npz holds eval heads 0..5 at 32 pixels; another processor's sine may differ in the last bit."""
    rendered = to_uint8(Renderer(32, 2)(sample_z(range(6), "eval")).image)
    golden = np.load(GOLDEN)["images"]
    levels = (rendered.float() - torch.from_numpy(golden).float()).abs().mean((1, 2, 3))
    assert levels.max() <= GOLDEN_RENDER_LEVELS


def test_many_heads_are_in_range() -> None:
    renderer = Renderer(32, 1)
    for start in range(0, 96, 32):
        rendered = renderer(sample_z(range(start, start + 32)))
        assert rendered.image.shape == (32, 3, 32, 32)
        assert rendered.image.isfinite().all()
        assert rendered.image.abs().max() <= 1
        assert (rendered.image.flatten(1).std(1) > 0.1).all(), "a picture without a head"
        for mask in (rendered.eyes, rendered.mouth):
            assert mask.shape == (32, 1, 32, 32)
            assert mask.min() >= 0
            assert mask.max() <= 1
            assert mask.mean() < 0.1


def test_masks_lie_on_eyes_and_mouth(renderer: Renderer) -> None:
    """The middle of each eyeball's front and of the lips, projected by the geometry, is in the masks."""
    count = 12
    values = torch.zeros(count, len(MOTION))
    values[:, 0] = torch.linspace(-1.0, 1.0, count)
    z = with_motion(sample_z(range(count), "eval"), values)
    rendered, f = renderer(z), align(factors_of(z))
    batch, zero = torch.arange(count), torch.zeros(count, 1)
    for side in (-1, 1):
        column, row = pixel_of((side * f["eye_spacing"], f["eye_height"], EYE_Z + f["eye_size"]), f)
        assert (rendered.eyes[batch, 0, row, column] == 1).all()
        assert (rendered.mouth[batch, 0, row, column] == 0).all()
    column, row = pixel_of((zero, f["mouth_height"] - 0.02, zero + 0.74), f)
    assert (rendered.mouth[batch, 0, row, column] > 0.5).float().mean() > 0.9
    assert (rendered.eyes[batch, 0, row, column] == 0).all()
    assert (center(rendered.eyes)[1] < center(rendered.mouth)[1] - 3).all()


def test_an_opening_mouth_grows(renderer: Renderer) -> None:
    areas = [moved(renderer, 6, mouth_open=value).mouth.sum((1, 2, 3)) for value in (-1.5, 0.3, 1.0, 2.0)]
    for smaller, larger in itertools.pairwise(areas):
        assert (larger > smaller).all()


def test_turning_moves_the_features(renderer: Renderer) -> None:
    """Yaw to the right, pitch down, roll counter-clockwise: in pixels of 48."""
    across = torch.stack([center(moved(renderer, 6, yaw=yaw).mouth)[0] for yaw in (-1.5, 0.0, 1.5)])
    assert (across.diff(dim=0) > 0.3).all()
    up, down = (center(moved(renderer, 6, pitch=pitch).eyes)[1] for pitch in (-2.0, 2.0))
    assert (down > up + 0.2).all()
    tilted = moved(renderer, 6, roll=2.0).eyes
    left, right = tilted.clone(), tilted.clone()
    left[..., SIDE // 2 :], right[..., : SIDE // 2] = 0, 0
    assert (center(left)[1] > center(right)[1] + 0.5).all()


@pytest.mark.parametrize("name", ["blink", "gaze_x", "gaze_y"])
def test_eyes_change_within_the_eyes(renderer: Renderer, name: str) -> None:
    low, high = moved(renderer, 6, **{name: -1.5}), moved(renderer, 6, **{name: 1.8})
    change = (low.image - high.image).abs().mean(1, keepdim=True)
    near = torch.nn.functional.max_pool2d(torch.maximum(low.eyes, high.eyes), 3, 1, 1) > 0
    assert change[near].mean() > 0.05
    assert (change[~near] > 0.02).float().mean() < 0.001


@pytest.mark.parametrize("name", MOTION)
def test_every_motion_shows_and_leaves_the_wall_alone(renderer: Renderer, name: str) -> None:
    low, high = moved(renderer, 4, **{name: -1.2}).image, moved(renderer, 4, **{name: 1.6}).image
    change = (low - high).abs().mean(1)
    assert (change.amax((1, 2)) > 0.15).all()
    torch.testing.assert_close(low[:, :, :4, :4], high[:, :, :4, :4], **EXACT)


@pytest.mark.parametrize("arguments", [(0, 1), (128, 0), (-8, 2), (33, 2)])
def test_sizes_that_cannot_be_rendered_are_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="got"):
        Renderer(*arguments)


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu() -> None:
    z = sample_z(range(4), "eval")
    cpu, gpu = Renderer(SIDE, 2)(z), Renderer(SIDE, 2, device="cuda")(z)
    levels = (cpu.image - gpu.image.cpu()).abs().mean((1, 2, 3)) * 127.5
    assert levels.max() <= GOLDEN_RENDER_LEVELS
