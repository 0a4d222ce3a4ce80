"""The path of a batch: what is answered, what is computed, and what stays as it was when something goes wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from legato.calls import SynthesisCall
from legato.errors import InvalidEdit, InvalidInput, LegatoError
from legato.inversion import Motion, Tracker, TrackerOptions, TrackerState
from legato.losses import psnr
from legato.models import Curvature, CurvatureConfig
from legato.models.flow import DisFlow, gray, visible
from legato.ops import flow_warp
from legato.pipeline import Pipeline
from legato.types import Edit, Flow, Frame, FrameAnswer, FrameJob, Outputs
from tests.pipeline.model import DIM, LAYERS, OVERFLOW, SIDE, SMILE, Model, small_model, stream, to_image, to_pixels
from tests.tolerances import BATCH_LATENTS_FLOAT32, DIFFERENCE_ROUNDING, EXACT, LEVELS_ROUNDING, PSNR_ROUNDING

ALL = Outputs(latents=True)
FRAMES = 8
FAST = TrackerOptions(lr=0.4, smoothing=1.0)  # the encoder of random weights has far to go
HELD = TrackerOptions(lr=0.6, flow_weight=0.5)


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def frames(model: Model) -> list[Frame]:
    return stream(model, FRAMES)


@pytest.fixture
def pipeline(model: Model) -> Pipeline:
    return Pipeline(model.generator, model.encoder, model.directions, slots=4, max_steps=8, tracker=FAST)


@pytest.fixture
def synthesized(pipeline: Pipeline) -> Iterator[list[int]]:
    """Batch sizes of every pass through the generator."""
    sizes: list[int] = []
    hook = pipeline.generator.register_forward_hook(lambda module, args, output: sizes.append(output.shape[0]))
    yield sizes
    hook.remove()


def answer(result: FrameAnswer | LegatoError) -> FrameAnswer:
    assert isinstance(result, FrameAnswer), result
    return result


def encode(model: Model, frame: Frame) -> torch.Tensor:
    with torch.inference_mode():
        latents: torch.Tensor = model.encoder(to_image(frame))
        return latents


def test_answers_hold_the_images_of_the_codes(pipeline: Pipeline, model: Model, frames: list[Frame]) -> None:
    given = answer(pipeline.run([FrameJob(0, 7, frames[0], SMILE, ALL)])[0])
    latents = encode(model, frames[0])
    assert given.seq == 7
    assert given.latents is not None
    torch.testing.assert_close(torch.from_numpy(given.latents), latents[0], **EXACT)
    with torch.inference_mode():
        images = model.generator(torch.cat([latents, model.directions.edit(latents, [SMILE])]))
    for pixels, image in ((given.reconstruction, images[0]), (given.edited, images[1])):
        assert pixels is not None
        assert pixels.dtype == np.uint8
        np.testing.assert_allclose(pixels.astype(int), to_pixels(image).astype(int), **LEVELS_ROUNDING)
    expected = float(psnr(images[:1], to_image(frames[0])))
    assert math.isclose(given.psnr_db, expected, **PSNR_ROUNDING)
    assert (given.steps, given.state_version) == (0, 1)
    assert list(given.stage_seconds) == ["encode", "edit", "synthesize"]
    assert all(seconds >= 0 for seconds in given.stage_seconds.values())


def test_only_what_is_asked_for_is_computed(pipeline: Pipeline, frames: list[Frame], synthesized: list[int]) -> None:
    jobs = [
        FrameJob(0, 1, frames[0], SMILE),
        FrameJob(1, 1, frames[0]),
        FrameJob(2, 1, frames[0], SMILE, Outputs(edited=False)),
        FrameJob(3, 1, frames[0], SMILE, Outputs(reconstruction=False)),
        FrameJob(-1, 1, frames[0], SMILE, Outputs(reconstruction=False, edited=False, latents=True)),
    ]
    answers = [answer(result) for result in pipeline.run(jobs)]
    assert synthesized == [3 + 2]  # reconstructions and edits are one batch
    assert [a.reconstruction is not None for a in answers] == [True, True, True, False, False]
    assert [a.edited is not None for a in answers] == [True, False, False, True, False]
    assert [a.latents is not None for a in answers] == [False, False, False, False, True]
    assert [math.isnan(a.psnr_db) for a in answers] == [False, False, False, True, True]
    synthesized.clear()
    pipeline.run(jobs[-1:])
    assert synthesized == []


def test_steps_pay_and_their_correction_is_carried(pipeline: Pipeline, frames: list[Frame]) -> None:
    carried = [answer(pipeline.run([FrameJob(0, t, f, max_steps=2)])[0]) for t, f in enumerate(frames)]
    alone = [answer(pipeline.run([FrameJob(-1, t, f, max_steps=2)])[0]) for t, f in enumerate(frames)]
    encoded = [answer(pipeline.run([FrameJob(-1, t, f)])[0]) for t, f in enumerate(frames)]
    assert [a.state_version for a in carried] == list(range(1, FRAMES + 1))
    assert [a.steps for a in carried] == [2] * FRAMES
    assert list(carried[0].stage_seconds) == ["encode", "refine", "edit", "synthesize"]
    last = slice(FRAMES // 2, None)
    without, independent, with_it = (np.mean([a.psnr_db for a in run[last]]) for run in (encoded, alone, carried))
    assert with_it > max(without, independent) + 1.0


def test_frames_without_steps_keep_the_correction(pipeline: Pipeline, model: Model, frames: list[Frame]) -> None:
    first = answer(pipeline.run([FrameJob(0, 0, frames[0], outputs=ALL, max_steps=3)])[0])
    second = answer(pipeline.run([FrameJob(0, 1, frames[1], outputs=ALL)])[0])
    assert first.latents is not None
    assert second.latents is not None
    correction = torch.from_numpy(first.latents) - encode(model, frames[0])[0]
    assert correction.abs().max() > 0.05
    again = torch.from_numpy(second.latents) - encode(model, frames[1])[0]
    torch.testing.assert_close(again, correction, **DIFFERENCE_ROUNDING)


def test_a_scene_cut_restarts_the_correction(pipeline: Pipeline, model: Model, frames: list[Frame]) -> None:
    """Without steps too: the frame after the cut is the encoder's alone."""
    for t in range(6):
        pipeline.run([FrameJob(0, t, frames[0], max_steps=8)])
    before = answer(pipeline.run([FrameJob(0, 6, frames[0])])[0])
    other = [Frame(np.ascontiguousarray(255 - frame.pixels)) for frame in frames]
    at_cut, after = (answer(pipeline.run([FrameJob(0, 7 + t, other[t], outputs=ALL)])[0]) for t in range(2))
    assert at_cut.psnr_db < before.psnr_db - 3.0
    assert after.latents is not None
    torch.testing.assert_close(torch.from_numpy(after.latents), encode(model, other[1])[0], **EXACT)


def test_a_bad_job_is_answered_alone(pipeline: Pipeline, frames: list[Frame]) -> None:
    small = Frame(np.zeros((8, 8, 3), np.uint8))
    flow = Flow(np.zeros((2, 8, 8), np.float32))
    bad = [
        FrameJob(1, 1, small),
        FrameJob(2, 1, frames[0], (Edit("nose", 1.0),)),
        FrameJob(3, 1, frames[0], max_steps=9),
        FrameJob(3, 1, frames[0], flow=flow),
    ]
    results = pipeline.run([FrameJob(0, 1, frames[0]), *bad])
    assert isinstance(results[0], FrameAnswer)
    assert [type(result) for result in results[1:]] == [InvalidInput, InvalidEdit, InvalidInput, InvalidInput]
    for text, result in zip(("[64, 64, 3]", "smile", "0 to 8", "[2, 64, 64]"), results[1:], strict=True):
        assert text in str(result)
    assert answer(pipeline.run([FrameJob(1, 2, frames[0])])[0]).state_version == 1


def test_numbers_that_are_not_finite_touch_nobody(pipeline: Pipeline, model: Model, frames: list[Frame]) -> None:
    undisturbed = Pipeline(model.generator, model.encoder, model.directions, slots=4, tracker=FAST)
    for t in range(3):
        jobs = [FrameJob(slot, t, frames[t], SMILE, ALL, max_steps=1) for slot in (0, 1)]
        expected = [answer(result) for result in undisturbed.run(jobs)]
        if t == 1:
            poisoned = FrameJob(2, t, frames[t], OVERFLOW, ALL, max_steps=1)
            *good, bad = pipeline.run([*jobs, poisoned])
            assert isinstance(bad, LegatoError)
            assert bad.reason == "NOT_FINITE"
        else:
            good = pipeline.run(jobs)
        for mine, theirs in zip(map(answer, good), expected, strict=True):
            assert mine.latents is not None
            assert theirs.latents is not None
            np.testing.assert_allclose(mine.latents, theirs.latents, **BATCH_LATENTS_FLOAT32)
            assert mine.state_version == theirs.state_version
    assert answer(pipeline.run([FrameJob(2, 3, frames[3])])[0]).state_version == 1


def test_sessionless_images_leave_no_state(pipeline: Pipeline, frames: list[Frame]) -> None:
    jobs = [FrameJob(-1, t, frames[t], outputs=ALL, max_steps=1) for t in (0, 1)]
    once = [answer(result) for result in pipeline.run(jobs)]
    again = [answer(result) for result in pipeline.run(jobs)]
    for mine, theirs in zip(once, again, strict=True):
        np.testing.assert_array_equal(mine.latents, theirs.latents)
        assert theirs.state_version == 1


def test_reset_begins_afresh(pipeline: Pipeline, frames: list[Frame]) -> None:
    first = answer(pipeline.run([FrameJob(0, 1, frames[0], outputs=ALL, max_steps=1)])[0])
    pipeline.run([FrameJob(0, 2, frames[1], max_steps=1)])
    pipeline.reset(0)
    again = answer(pipeline.run([FrameJob(0, 3, frames[0], outputs=ALL, max_steps=1)])[0])
    np.testing.assert_array_equal(first.latents, again.latents)
    assert again.state_version == 1


def test_steps_are_held_to_the_last_output_along_the_flow_of_the_frames(model: Model, frames: list[Frame]) -> None:
    """What the pipeline hands to the tracker, put together by hand."""
    pipeline = Pipeline(model.generator, model.encoder, model.directions, slots=1, tracker=HELD)
    pipeline.run([FrameJob(0, 1, frames[0])])
    second = answer(pipeline.run([FrameJob(0, 2, frames[1], outputs=ALL, max_steps=2)])[0])
    pull, back = DisFlow().both(gray(frames[1].pixels, SIDE), gray(frames[0].pixels, SIDE))
    state = TrackerState.zeros(1, layers=LAYERS, dim=DIM, resolution=SIDE, flow_side=SIDE, device=torch.device("cpu"))
    with torch.no_grad():
        warped, _ = flow_warp(model.generator(model.encoder(to_image(frames[0]))), pull)
        motion = Motion(warped, visible(pull, back))
        tracker = Tracker(model.generator, Curvature(CurvatureConfig(LAYERS, DIM)), options=HELD)
        for frame, steps in ((frames[0], 0), (frames[1], 2)):
            tracker.begin(state, model.encoder(to_image(frame)))
            expected = tracker.refine(state, to_image(frame), [steps], motion)
    assert motion.visible.mean() > 0.2
    assert second.latents is not None
    torch.testing.assert_close(torch.from_numpy(second.latents), expected[0], **EXACT)


def test_flow_that_is_given_is_used(model: Model, frames: list[Frame]) -> None:
    """A flow from far away shows nothing of the last output; none means that the pipeline finds it."""
    outside = Flow(np.full((2, SIDE, SIDE), 1000.0, np.float32))
    found = []
    for flow in (None, outside):
        pipeline = Pipeline(model.generator, model.encoder, model.directions, slots=1, tracker=HELD)
        pipeline.run([FrameJob(0, 1, frames[0])])
        found.append(answer(pipeline.run([FrameJob(0, 2, frames[1], outputs=ALL, max_steps=1, flow=flow)])[0]).latents)
    pipeline = Pipeline(model.generator, model.encoder, model.directions, slots=1, tracker=HELD)
    pipeline.run([FrameJob(0, 1, frames[0], outputs=Outputs(reconstruction=False))])
    blind = answer(pipeline.run([FrameJob(0, 2, frames[1], outputs=ALL, max_steps=1)])[0]).latents
    assert found[0] is not None
    assert found[1] is not None
    assert not np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[1], blind)


def call(latents: NDArray[np.float32] | None = None, *, seed: int = 0, truncation: float = 0.7) -> SynthesisCall:
    return SynthesisCall(latents, seed, truncation, SMILE, Future())


def test_synthesis_of_a_seed_and_of_its_latents_are_one(pipeline: Pipeline) -> None:
    first, again, other = (pipeline.synthesize(call(seed=seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.latents.shape == (LAYERS, DIM)
    assert not np.array_equal(first.image, other.image)
    np.testing.assert_array_equal(pipeline.synthesize(call(first.latents)).image, first.image)


def test_latents_that_cannot_be_synthesized_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidInput, match=r"\[10, 32\]"):
        pipeline.synthesize(call(np.zeros((LAYERS, 1), np.float32)))
    with pytest.raises(InvalidInput, match="finite"):
        pipeline.synthesize(call(np.full((LAYERS, DIM), np.nan, np.float32)))
    with pytest.raises(InvalidInput, match="truncation"):
        pipeline.synthesize(call(truncation=math.nan))
