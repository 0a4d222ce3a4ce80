"""The tracker on a real generator: what a step costs, what is carried, what restarts; state in slots."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from legato.inversion import Tracker, TrackerOptions, TrackerState
from legato.inversion.streaming import Motion
from legato.losses import l1
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

    def refine(
        self, state: TrackerState, steps: list[int], options: TrackerOptions | None = None, **with_: Motion
    ) -> Tensor:
        n = len(steps)
        motion = with_.get("motion", unseen(n))
        with torch.no_grad():
            return Tracker(self.synthesize, options).refine(state, self.encoded[:n], self.images[:n], steps, motion)


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
    torch.testing.assert_close(latents, scene.encoded[:2] + torch.tensor([0.0, 0.25]).view(2, 1, 1), **EXACT)


def test_a_row_does_not_depend_on_the_budgets_of_the_others(scene: Scene) -> None:
    together = scene.refine(fresh(3), [2, 0, 4])
    alone = [scene.refine(fresh(3), [2, 0, 0])[0], scene.encoded[1], scene.refine(fresh(3), [0, 0, 4])[2]]
    torch.testing.assert_close(together, torch.stack(alone), **BATCH_LATENTS_FLOAT32)


def test_the_correction_and_its_memory_go_on(scene: Scene) -> None:
    state = fresh(1)
    first = scene.refine(state, [2])
    second = scene.refine(state, [2])
    assert state.age.tolist() == [4.0]
    distance = [float(l1(scene.generator(latents), scene.images[:1])) for latents in (scene.encoded[:1], first, second)]
    assert distance[2] < distance[1] < distance[0]
    torch.testing.assert_close(second, scene.encoded[:1] + state.correction, **EXACT)


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
    state, tracker = fresh(2), Tracker(lambda latents: latents)
    state.residual[:] = 0.001
    state.correction[:] = 1.0
    tracker.observe(state, torch.tensor([0, 1]), torch.tensor([0.04, 0.4]))
    assert state.correction[0].all()
    assert not state.correction[1].any()
    assert 0.001 < float(state.residual[0]) < 0.04
    assert float(state.residual[1]) == 0.0


def test_flow_consistency_pulls_to_the_warped_output_where_it_is_visible(scene: Scene) -> None:
    with torch.no_grad():
        elsewhere = scene.generator(scene.encoded[:1] + torch.randn(1, LAYERS, DIM))
    seen = torch.ones(1, 1, SIDE, SIDE)
    strong = TrackerOptions(flow_weight=20.0)
    found = [scene.refine(fresh(1), [4], strong, motion=Motion(elsewhere, visible)) for visible in (0 * seen, seen)]
    plain = scene.refine(fresh(1), [4])
    with torch.no_grad():
        unpulled, pulled = (float(l1(scene.generator(latents), elsewhere)) for latents in found)
    assert pulled < unpulled
    torch.testing.assert_close(found[0], plain, **EXACT)


def test_the_prior_keeps_the_correction_small(scene: Scene) -> None:
    free = scene.refine(fresh(1), [4], TrackerOptions(prior_weight=0.0))
    held = scene.refine(fresh(1), [4], TrackerOptions(prior_weight=1e4))
    assert (held - scene.encoded[:1]).norm() < 0.5 * (free - scene.encoded[:1]).norm()


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
