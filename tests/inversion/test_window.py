"""The window: keyframes are chosen, joint steps pay, streams are offered what was found, and nobody else's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from legato.inversion import Window, WindowOptions
from legato.losses import mse
from legato.models import Curvature, CurvatureConfig
from tests.pipeline.model import DIM, LAYERS, SIDE, Model, small_model, stream, to_image
from tests.tolerances import EXACT

SLOTS = 3


class Scenes:
    """A window over streams of a real generator; the codes that it gets are off by what the streams share."""

    def __init__(self, model: Model, options: WindowOptions | None = None) -> None:
        self.generator = model.generator.requires_grad_(False)
        self.curvature = Curvature(CurvatureConfig(LAYERS, DIM))
        self.window = Window(
            self.generator,
            self.curvature,
            slots=SLOTS,
            resolution=SIDE,
            device=torch.device("cpu"),
            options=options or WindowOptions(lr=0.5, settled=0),
        )
        with torch.no_grad():
            self.images = torch.cat([to_image(frame) for frame in stream(model, 10)])
            self.codes = model.encoder(self.images)

    def offer(self, slot: int, *frames: int) -> None:
        for frame in frames:
            self.window.offer(slot, self.images[frame], self.codes[frame])

    def error(self, slot: int, frame: int) -> float:
        """Of the image that the frame's stream is offered."""
        with torch.no_grad():
            target, _ = self.window.target([slot], self.codes[frame : frame + 1])
            image = self.generator(self.codes[frame : frame + 1] + self.curvature.moves(target))
        return float(mse(image, self.images[frame : frame + 1]))


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture
def scenes(model: Model) -> Scenes:
    return Scenes(model)


def target(scenes: Scenes, slot: int, frame: int = 0) -> Tensor:
    return scenes.window.target([slot], scenes.codes[frame : frame + 1])[0]


def owes(scenes: Scenes) -> bool:
    return scenes.window.owes


def improve(scenes: Scenes, steps: int) -> None:
    with torch.no_grad():
        for _ in range(steps):
            scenes.window.improve()


def test_nothing_is_offered_before_a_step(scenes: Scenes) -> None:
    assert scenes.window.improve() == 0
    scenes.offer(0, 0)
    assert scenes.window.ready
    found, known = scenes.window.target([0, -1], scenes.codes[:2])
    assert not known.any()
    assert not found.any()


def test_steps_on_keyframes_pay_on_frames_that_it_never_saw(scenes: Scenes) -> None:
    scenes.offer(0, 0, 3, 6)
    before = [scenes.error(0, frame) for frame in (1, 4, 8)]
    improve(scenes, 20)
    after = [scenes.error(0, frame) for frame in (1, 4, 8)]
    assert all(b < 0.8 * a for a, b in zip(before, after, strict=True)), (before, after)


def test_streams_do_not_touch_each_other(scenes: Scenes) -> None:
    scenes.offer(0, 0, 3)
    scenes.offer(2, 5, 8)
    improve(scenes, 6)
    together = target(scenes, 0).clone()
    alone = Scenes(small_model())
    alone.offer(0, 0, 3)
    improve(alone, 3)
    torch.testing.assert_close(together, target(alone, 0), **EXACT)
    assert not scenes.window.target([1], scenes.codes[:1])[1].any()


def test_streams_that_are_owed_steps_come_first_and_are_owed_no_others(scenes: Scenes) -> None:
    scenes.offer(0, 0, 3)
    scenes.offer(2, 5, 8)
    assert not owes(scenes)
    scenes.window.owe(2, 7)
    scenes.window.owe(2, 2)
    scenes.window.owe(1, 5)  # has no keyframe
    before = target(scenes, 0)
    improve(scenes, 1)
    assert owes(scenes)
    improve(scenes, 1)
    assert not owes(scenes)
    torch.testing.assert_close(target(scenes, 0), before, **EXACT)
    assert target(scenes, 2).any()
    improve(scenes, 1)
    assert target(scenes, 0).any(), "then it is the other's turn"
    scenes.window.owe(0, 3)
    scenes.window.reset(0)
    assert not owes(scenes)


def test_reset_forgets(scenes: Scenes) -> None:
    scenes.offer(0, 0, 3)
    improve(scenes, 2)
    scenes.window.reset(0)
    assert not scenes.window.ready
    assert not scenes.window.target([0], scenes.codes[:1])[1].any()
    scenes.offer(0, 0, 3)
    improve(scenes, 2)
    again = target(scenes, 0).clone()
    fresh = Scenes(small_model())
    fresh.offer(0, 0, 3)
    improve(fresh, 2)
    torch.testing.assert_close(again, target(fresh, 0), **EXACT)


def test_a_frame_waits_until_the_newest_keyframe_has_had_its_steps(model: Model) -> None:
    scenes = Scenes(model, WindowOptions(settled=2, rows=1, keyframes=4))
    scenes.offer(0, 0, 1, 2)
    improve(scenes, 2)
    scenes.offer(0, 3)
    improve(scenes, 1)
    assert scenes.window.keyframes(0) == 2


def test_of_too_many_keyframes_the_one_most_like_another_goes(model: Model) -> None:
    scenes = Scenes(model, WindowOptions(settled=0, keyframes=3))
    codes = [torch.full((LAYERS, DIM), value) for value in (0.0, 1.0, 1.1, 5.0)]
    for code in codes:
        scenes.window.offer(0, scenes.images[0], code)
    left = sorted(float(code.mean()) for code in scenes.window.codes(0))
    assert left in (pytest.approx([0.0, 1.0, 5.0]), pytest.approx([0.0, 1.1, 5.0]))


def test_a_keyframe_that_is_done_is_left_alone(model: Model) -> None:
    scenes = Scenes(model, WindowOptions(settled=0, enough=3, rows=2))
    scenes.offer(0, 0, 5)
    improve(scenes, 3)
    assert not scenes.window.ready
    done = target(scenes, 0).clone()
    improve(scenes, 2)
    torch.testing.assert_close(target(scenes, 0), done, **EXACT)


def test_numbers_that_are_not_finite_end_a_window_and_no_other(scenes: Scenes) -> None:
    scenes.offer(0, 0)
    scenes.window.offer(1, scenes.images[0], torch.full((LAYERS, DIM), 3e38))
    improve(scenes, 2)
    assert scenes.window.target([0, 1], scenes.codes[:2])[1].tolist() == [True, False]
