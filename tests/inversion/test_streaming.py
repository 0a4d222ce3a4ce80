"""The tracker on a real generator: what a step costs, what is carried, what restarts; state in slots."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from legato.inversion import Motion, Tracker, TrackerOptions, TrackerState
from legato.losses import mse
from legato.models import Curvature, CurvatureConfig, ResidualEncoder
from tests.pipeline.model import DIM, LAYERS, SIDE, Model, small_model, stream, to_image
from tests.tolerances import BATCH_LATENTS_FLOAT32, EXACT


class Scene:
    """Three frames of a scene, their codes, and a generator that counts the images it is asked for."""

    def __init__(self, model: Model) -> None:
        self.generator = model.generator.requires_grad_(False)
        self.images = torch.cat([to_image(frame) for frame in stream(model, 3)])
        with torch.no_grad():
            self.encoded = model.encoder(self.images)
        self.asked: list[int] = []

    def synthesize(self, latents: Tensor) -> Tensor:
        self.asked.append(latents.shape[0])
        image: Tensor = self.generator(latents)
        return image

    def tracker(self, options: TrackerOptions | None = None) -> Tracker:
        return Tracker(self.synthesize, Curvature(CurvatureConfig(LAYERS, DIM)), options=options)

    def refine(
        self, state: TrackerState, steps: list[int], options: TrackerOptions | None = None, **with_: Motion
    ) -> Tensor:
        n = len(steps)
        tracker = self.tracker(options)
        with torch.no_grad():
            tracker.begin(state, self.encoded[:n])
            return tracker.refine(state, self.images[:n], steps, with_.get("motion", unseen(n)))


def unseen(rows: int) -> Motion:
    return Motion(torch.zeros(rows, 3, SIDE, SIDE), torch.zeros(rows, 1, SIDE, SIDE))


def fresh(rows: int) -> TrackerState:
    return TrackerState.zeros(rows, layers=LAYERS, dim=DIM, resolution=SIDE, flow_side=SIDE, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture
def scene(model: Model) -> Scene:
    return Scene(model)


def test_steps_cost_what_is_asked(scene: Scene) -> None:
    scene.refine(fresh(3), [0, 1, 3])
    assert scene.asked == [2, 1, 1]


def test_no_steps_cost_nothing_and_carry_the_correction_as_it_is(scene: Scene) -> None:
    state = fresh(2)
    state.correction[1] = 0.25
    latents = scene.refine(state, [0, 0])
    assert scene.asked == []
    moved = Curvature(CurvatureConfig(LAYERS, DIM)).moves(state.correction)
    torch.testing.assert_close(latents, scene.encoded[:2] + moved, **EXACT)
    assert moved[1].all()


def test_what_is_shown_is_a_running_mean_of_the_correction(scene: Scene) -> None:
    state, tracker = fresh(1), scene.tracker(TrackerOptions(smoothing=0.25))
    shown = []
    for value in (1.0, 3.0, 5.0, 5.0, 5.0):
        state.correction[:] = value
        tracker.show(state)
        shown.append(float(state.shown.mean()))
    assert shown == pytest.approx([1.0, 2.0, 3.0, 3.5, 3.875])


def test_a_row_does_not_depend_on_the_budgets_of_the_others(scene: Scene) -> None:
    together = scene.refine(fresh(3), [2, 0, 4])
    alone = [scene.refine(fresh(3), [2, 0, 0])[0], scene.encoded[1], scene.refine(fresh(3), [0, 0, 4])[2]]
    torch.testing.assert_close(together, torch.stack(alone), **BATCH_LATENTS_FLOAT32)


def test_the_correction_and_its_memory_go_on(scene: Scene) -> None:
    state = fresh(1)
    first = scene.refine(state, [2])
    second = scene.refine(state, [2])
    assert state.age.tolist() == [4.0]
    assert state.frames.tolist() == [2.0]
    distance = [
        float(mse(scene.generator(latents), scene.images[:1])) for latents in (scene.encoded[:1], first, second)
    ]
    assert distance[2] < distance[1] < distance[0]


def test_the_window_pulls_by_the_rate_of_each_row(scene: Scene) -> None:
    state = fresh(2)
    state.correction[:] = 1.0
    scene.tracker().pull(state, torch.full((2, LAYERS, DIM), 3.0), torch.tensor([0.25, 0.0]))
    assert state.correction.mean((1, 2)).tolist() == [1.5, 1.0]


def test_a_code_that_jumps_is_a_scene_cut_where_the_curvature_is_known(scene: Scene) -> None:
    tracker = scene.tracker()
    for digest, kept in (("", True), ("measured", False)):
        state = fresh(1)
        tracker.curvature.digest = digest
        tracker.begin(state, scene.encoded[:1])
        tracker.show(state)
        state.correction[:] = 1.0
        tracker.begin(state, scene.encoded[:1])
        assert state.correction.all()
        tracker.begin(state, scene.encoded[:1] + 2.0)
        assert bool(state.correction.all()) == kept
        assert bool(state.frames) == kept


def test_a_residual_that_jumps_restarts_the_correction(scene: Scene) -> None:
    state = fresh(1)
    scene.refine(state, [1])
    state.correction += 3.0
    state.residual[:] = 0.02
    latents = scene.refine(state, [1])
    torch.testing.assert_close(latents, scene.encoded[:1], **EXACT)
    assert not state.correction.any()
    assert not state.first.any()
    assert state.age.tolist() == [0.0]
    scene.refine(state, [2])
    assert state.age.tolist() == [2.0]


def test_a_residual_below_the_floor_is_no_cut() -> None:
    state, tracker = fresh(2), Tracker(lambda latents: latents, Curvature(CurvatureConfig(LAYERS, DIM)))
    state.residual[:] = 0.001
    state.correction[:] = 1.0
    tracker.observe(state, torch.tensor([0, 1]), torch.tensor([0.004, 0.16]))
    assert state.correction[0].all()
    assert not state.correction[1].any()
    assert 0.001 < float(state.residual[0]) < 0.064
    assert float(state.residual[1]) == 0.0


def test_flow_consistency_pulls_to_the_warped_output_where_it_is_visible(scene: Scene) -> None:
    with torch.no_grad():
        elsewhere = scene.generator(scene.encoded[:1] + torch.randn(1, LAYERS, DIM))
    seen = torch.ones(1, 1, SIDE, SIDE)
    strong = TrackerOptions(flow_weight=20.0)
    found = [scene.refine(fresh(1), [4], strong, motion=Motion(elsewhere, visible)) for visible in (0 * seen, seen)]
    plain = scene.refine(fresh(1), [4])
    with torch.no_grad():
        unpulled, pulled = (float(mse(scene.generator(latents), elsewhere)) for latents in found)
    assert pulled < unpulled
    torch.testing.assert_close(found[0], plain, **EXACT)


def test_the_prior_keeps_the_correction_small(scene: Scene) -> None:
    free = scene.refine(fresh(1), [12], TrackerOptions(prior_weight=0.0))
    held = scene.refine(fresh(1), [12], TrackerOptions(prior_weight=1e4))
    assert (held - scene.encoded[:1]).norm() < 0.5 * (free - scene.encoded[:1]).norm()


def test_the_residual_encoder_moves_the_code_first(model: Model, scene: Scene) -> None:
    residual = ResidualEncoder(model.encoder.config).eval().requires_grad_(False)
    assert not Tracker(scene.synthesize, Curvature(CurvatureConfig(LAYERS, DIM))).unrolls
    with torch.no_grad():
        residual.offset_bias.normal_()
        for steps in (0, 1, 2):
            scene.asked.clear()
            options = TrackerOptions(residual_steps=steps)
            tracker = Tracker(scene.synthesize, Curvature(CurvatureConfig(LAYERS, DIM)), residual, options)
            expected = scene.encoded
            for _ in range(steps):
                expected = expected + residual(scene.images, scene.generator(expected), expected)
            torch.testing.assert_close(tracker.corrected(scene.images, scene.encoded), expected, **EXACT)
            assert scene.asked == [3] * steps
            assert tracker.unrolls == (steps > 0)


def test_rows_are_gathered_and_scattered_by_slot() -> None:
    slots = fresh(4)
    batch = slots.gather([2, -1, 0])
    for field in fields(batch):
        getattr(batch, field.name)[:] = 1
    slots.scatter([2, -1, 0], batch, kept=[0, 1])
    assert slots.version.tolist() == [0, 0, 1, 0]
    assert slots.latents[2].all()
    assert slots.gray[2].all()
    for field in fields(slots):
        assert not getattr(slots, field.name)[[0, 1, 3]].any(), f"{field.name} of a slot that was not written"
    slots.reset(2)
    assert not any(getattr(slots, field.name).any() for field in fields(slots))
