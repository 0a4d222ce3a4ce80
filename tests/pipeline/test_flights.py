"""Stages of the pipeline one by one: frames of different age beside each other, and rows that come back."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from legato.flights import Flight, Flights, state_bytes, state_sizes
from legato.pipeline import Pipeline
from legato.types import Frame, FrameAnswer, FrameJob, Outputs
from tests.pipeline.model import SMILE, Model, small_model, stream
from tests.tolerances import BATCH_LATENTS_FLOAT32

ALL = Outputs(latents=True)


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def scenes(model: Model) -> list[list[Frame]]:
    return [stream(model, 3, seed) for seed in range(3)]


def pipeline(model: Model, in_flight: int = 8) -> Pipeline:
    return Pipeline(model.generator, model.encoder, model.directions, slots=3, in_flight=in_flight)


def begin(pipeline: Pipeline, *jobs: FrameJob) -> list[Flight]:
    begun = pipeline.begin(jobs)
    assert all(isinstance(flight, Flight) for flight in begun), begun
    return [flight for flight in begun if isinstance(flight, Flight)]


def test_who_shares_the_batches_does_not_matter(model: Model, scenes: list[list[Frame]]) -> None:
    """A frame joins another's steps half way, a third one takes none; each is as it is alone."""
    jobs = [FrameJob(slot, 1, scenes[slot][0], SMILE, ALL, max_steps=steps) for slot, steps in enumerate((4, 2, 0))]
    alone = [pipeline(model).run([job])[0] for job in jobs]
    shared = pipeline(model)
    (first,) = begin(shared, jobs[0])
    shared.step([first])
    second, third = begin(shared, jobs[1], jobs[2])
    shared.step([second, first])
    shared.step([first, second])
    found = shared.finish([third, second])
    shared.step([first])
    found += shared.finish([first])
    for together, single in zip(reversed(found), [alone[0], alone[1], alone[2]], strict=True):
        assert isinstance(together, FrameAnswer)
        assert isinstance(single, FrameAnswer)
        assert together.latents is not None
        assert single.latents is not None
        np.testing.assert_allclose(together.latents, single.latents, **BATCH_LATENTS_FLOAT32)
        assert together.steps == single.steps
        assert list(together.stage_seconds) == list(single.stage_seconds)


def test_batches_of_one_are_bit_for_bit_the_same_beside_others(model: Model, scenes: list[list[Frame]]) -> None:
    """What buckets of one do, whatever else is in flight."""
    alone, crowded = pipeline(model), pipeline(model)
    for t in range(3):
        job = FrameJob(0, t, scenes[0][t], SMILE, ALL, max_steps=2)
        (single,) = alone.run([job])
        flights = [begin(crowded, each)[0] for each in (job, FrameJob(1, t, scenes[1][t], SMILE, max_steps=2))]
        for flight in (flights * 2)[::-1]:
            crowded.step([flight])
        (beside,) = crowded.finish(flights[:1])
        crowded.finish(flights[1:])
        assert isinstance(single, FrameAnswer)
        assert isinstance(beside, FrameAnswer)
        np.testing.assert_array_equal(beside.latents, single.latents)
        np.testing.assert_array_equal(beside.edited, single.edited)


def test_a_frame_that_is_abandoned_leaves_its_slot_as_it_was(model: Model, scenes: list[list[Frame]]) -> None:
    pipe, undisturbed = pipeline(model), pipeline(model)
    for each in (pipe, undisturbed):
        each.run([FrameJob(0, 1, scenes[0][0], max_steps=1)])
    (flight,) = begin(pipe, FrameJob(0, 2, scenes[0][1], max_steps=2))
    pipe.step([flight])
    pipe.abandon([flight])
    pipe.abandon([flight])  # once more changes nothing
    job = FrameJob(0, 3, scenes[0][2], outputs=ALL, max_steps=1)
    (found,), (expected,) = pipe.run([job]), undisturbed.run([job])
    assert isinstance(found, FrameAnswer)
    assert isinstance(expected, FrameAnswer)
    np.testing.assert_array_equal(found.latents, expected.latents)
    assert found.state_version == 2


def test_rows_come_back_whatever_happens(
    model: Model, scenes: list[list[Frame]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipeline(model, in_flight=2)
    job = FrameJob(-1, 1, scenes[0][0], max_steps=1)

    def broken(image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    for network in (model.encoder, model.generator):
        with monkeypatch.context() as patch:
            patch.setattr(network, "forward", broken)
            for _ in range(3):
                with pytest.raises(RuntimeError, match="no such kernel"):
                    pipe.run([job, job])
    assert len(pipe.run([job, FrameJob(-1, 2, scenes[0][0], max_steps=99)])) == 2
    assert all(isinstance(answer, FrameAnswer) for answer in pipe.run([job, job]))
    begin(pipe, job, job)
    with pytest.raises(ValueError, match="0 of 2 rows are free"):
        pipe.begin([job])


def test_memory_is_what_is_told(model: Model) -> None:
    config = model.generator.config
    session, in_flight = state_bytes(config)
    flights = Flights(3, **state_sizes(config), device=torch.device("cpu"))
    state = sum(getattr(flights.state, item.name).nbytes for item in fields(flights.state))
    assert session == state // 3
    work = sum(tensor.nbytes for tensor in (flights.images, flights.visible))
    assert in_flight == session + work // 3
