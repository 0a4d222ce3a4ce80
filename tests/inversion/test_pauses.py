"""Pauses in long computations: how often, between what, and that they change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from legato.inversion.method import METHODS, parse_method
from legato.inversion.methods import Networks, Outcome, invert_clips
from legato.inversion.pauses import in_rows, pause, pausing
from legato.pipeline import Pipeline
from legato.types import FrameAnswer, FrameJob
from tests.inversion.test_methods import SHORT, clips, networks
from tests.pipeline.model import small_model, stream
from tests.tolerances import BATCH_LATENTS_FLOAT32, COMPOSED_IMAGE


class Counted:
    """A function of rows that notes how many it got, and the pauses in between."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.events.append(str(len(x)))
        return (x * y).square().sum(1)

    def pause(self) -> None:
        self.events.append("pause")


def rows(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, requires_grad=True), torch.randn(count, 3)


def test_without_pauses_all_rows_go_at_once() -> None:
    work = Counted()
    in_rows(work, *rows(5))
    pause()
    assert work.events == ["5"]


def test_parts_of_rows_with_a_pause_after_each_forward_and_before_each_backward() -> None:
    work, (x, y) = Counted(), rows(5)
    (whole,) = torch.autograd.grad(work(x, y).sum(), x)
    work.events.clear()
    with pausing(work.pause, 2):
        found = in_rows(work, x, y)
        assert work.events == ["2", "pause", "2", "pause", "1", "pause"]
        (gradient,) = torch.autograd.grad(found.sum(), x)
    assert work.events[6:] == ["pause"] * 3
    assert torch.equal(gradient, whole)


def test_backward_parts_come_one_after_the_other() -> None:
    """A pause before a part's backward pass, then all of it: nothing of two parts lies between two pauses."""
    order: list[str] = []

    def work(x: Tensor) -> Tensor:
        y = x * 2.0
        name = f"part {int(x[0, 0])}"
        y.register_hook(lambda gradient: order.append(name))
        return y.square()

    x = torch.arange(4.0)[:, None].requires_grad_()
    with pausing(lambda: order.append("pause"), 1):
        total = in_rows(work, x).sum()
        order.clear()
        total.backward()
    assert order == ["pause", "part 3", "pause", "part 2", "pause", "part 1", "pause", "part 0"]


def test_what_a_pause_raises_ends_the_work_forward_and_backward() -> None:
    class Enough(Exception):
        pass

    left = [4]

    def between() -> None:
        left[0] -= 1
        if not left[0]:
            raise Enough

    x, y = rows(3)
    with pytest.raises(Enough), pausing(between, 1):
        torch.autograd.grad(in_rows(Counted(), x, y).sum(), x)
    assert left == [0]
    in_rows(work := Counted(), x, y)
    assert work.events == ["3"], "pauses end with their block, whatever ended it"


def test_no_rows_and_no_part() -> None:
    with pausing(lambda: None, 1):
        assert in_rows(Counted(), torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)
    with pytest.raises(ValueError, match="at least 1 row; got 0"), pausing(lambda: None, 0):
        pass


@pytest.mark.parametrize("name", METHODS)
def test_a_method_with_pauses_finds_what_it_finds_without(name: str) -> None:
    nets, given, paused = networks(), clips(3), [0]

    def invert() -> Outcome:
        return invert_clips(nets, given, parse_method(SHORT[name]))

    def between() -> None:
        paused[0] += 1

    whole = invert()
    with pausing(between, 1):
        parted = invert()
        images = parted.clips[0].images(nets.generator)
    torch.testing.assert_close(parted.clips[0].latents, whole.clips[0].latents, **BATCH_LATENTS_FLOAT32)
    torch.testing.assert_close(images, parted.clips[0].images(nets.generator), **COMPOSED_IMAGE)
    steps = parse_method(SHORT[name]).steps
    assert paused[0] >= 3 + 3 * 2 * steps, "each frame through the generator, forward and backward"


def test_frames_of_a_stream_run_in_the_pauses_of_a_method() -> None:
    """On one thread, in the middle of forward and backward passes: neither disturbs the other by a single bit."""
    model = small_model()
    frames = stream(model, 4)
    jobs = [FrameJob(0, seq, frame, max_steps=2) for seq, frame in enumerate(frames, 1)]
    nets, given, method = Networks(model.generator, model.encoder), clips(3), parse_method("consecutive:steps=2")

    def latents(pipeline: Pipeline, job: FrameJob) -> Tensor:
        (answer,) = pipeline.run([job])
        assert isinstance(answer, FrameAnswer), answer
        assert answer.reconstruction is not None
        return torch.from_numpy(answer.reconstruction.copy())

    def new_pipeline() -> Pipeline:
        return Pipeline(model.generator, model.encoder, model.directions, slots=1)

    alone = new_pipeline()
    wanted = [latents(alone, job) for job in jobs]
    with pausing(lambda: None, 1):
        clip = invert_clips(nets, given, method).clips[0].latents
    shared, waiting, found = new_pipeline(), list(jobs), []
    turn = [0]

    def between() -> None:
        turn[0] += 1
        if waiting and turn[0] % 5 == 0:
            found.append(latents(shared, waiting.pop(0)))

    with pausing(between, 1):
        beside = invert_clips(nets, given, method).clips[0].latents
    assert torch.equal(beside, clip)
    assert len(found) == len(wanted)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
