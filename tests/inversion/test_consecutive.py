"""Joint inversion of clips: which windows, what they cost, how close they come, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from legato.errors import InvalidInput
from legato.inversion import Checkpoint, consecutive
from legato.inversion.consecutive import ConsecutiveInversion, ConsecutiveOptions, Policy, plan
from legato.losses import psnr
from tests.pipeline.model import DIM, LAYERS, SIDE, Model, small_model, stream, to_image
from tests.tolerances import BATCH_LATENTS_FLOAT32

BRIEF = ConsecutiveOptions(steps=4, lr=0.05, cooldown=0.0)


class Scene:
    """A model, clips of its making, and a count of the flows that were asked for."""

    def __init__(self, model: Model) -> None:
        self.generator, self.encoder = model.generator.requires_grad_(False), model.encoder.requires_grad_(False)
        self.clips = [torch.cat([to_image(f) for f in stream(model, n, seed=n)]) for n in (4, 6)]
        self.flows = 0

    def flow(self, current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        self.flows += len(current)
        still = torch.zeros(len(current), 2, SIDE, SIDE)
        return still, still

    def invert(
        self, options: ConsecutiveOptions, clips: list[Tensor] | None = None, checkpoint: Checkpoint | None = None
    ) -> ConsecutiveInversion:
        clips = self.clips if clips is None else clips
        return consecutive(
            self.generator,
            clips,
            encode=self.encoder,
            mean=self.generator.w_avg,
            layers=LAYERS,
            options=options,
            flow=self.flow,
            checkpoint=checkpoint,
        )

    @torch.no_grad()
    def psnr(self, found: ConsecutiveInversion, clip: int) -> float:
        images = self.clips[clip][list(found.clips[clip].frames)]
        return float(psnr(self.generator(found.clips[clip].latents), images).mean())


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture
def scene(model: Model) -> Scene:
    return Scene(model)


def layout(policy: Policy, lengths: list[int], **options: int | bool) -> list[list[tuple[int, int, int, list[int]]]]:
    batches = plan(lengths, replace(ConsecutiveOptions(policy=policy), **options))  # type: ignore[arg-type]
    return [[(w.clip, w.first, w.length, list(w.kept)) for w in windows] for windows in batches]


def test_windows_of_each_policy() -> None:
    assert layout("stride1_first", [4], window=3) == [[(0, 0, 3, [0]), (0, 1, 3, [1, 2, 3])]]
    assert layout("stride1_first", [4], window=3, cover=False) == [[(0, 0, 3, [0]), (0, 1, 3, [1])]]
    assert layout("disjoint_all", [7], window=3) == [[(0, 0, 3, [0, 1, 2]), (0, 3, 3, [3, 4, 5]), (0, 4, 3, [6])]]
    assert layout("disjoint_all", [6, 2], window=3) == [
        [(0, 0, 3, [0, 1, 2]), (0, 3, 3, [3, 4, 5])],
        [(1, 0, 2, [0, 1])],
    ]
    assert layout("whole_clip", [4, 7, 4]) == [
        [(0, 0, 4, [0, 1, 2, 3]), (2, 0, 4, [0, 1, 2, 3])],
        [(1, 0, 7, list(range(7)))],
    ]
    assert [len(b) for b in layout("stride1_first", [12], window=3, frames_per_batch=12)] == [4, 4, 2]


@pytest.mark.parametrize("policy", ["stride1_first", "disjoint_all", "whole_clip"])
@pytest.mark.parametrize("length", [2, 3, 5, 11])
def test_every_frame_is_kept_once(policy: Policy, length: int) -> None:
    windows = [w for batch in layout(policy, [length], window=4) for w in batch]
    assert [frame for window in windows for frame in window[3]] == list(range(length))


def test_codes_of_all_frames_come_closer_than_the_encoders(scene: Scene) -> None:
    found = scene.invert(replace(BRIEF, steps=12))
    start = scene.invert(replace(BRIEF, steps=0))
    for clip, frames in enumerate((4, 6)):
        assert found.clips[clip].latents.shape == (frames, LAYERS, DIM)
        assert found.clips[clip].steps.shape == (frames - 1, LAYERS, DIM)
        assert scene.psnr(found, clip) > scene.psnr(start, clip) + 0.5
    assert {"pixel", "pyramid", "consistency"} == set(found.solves[0].losses)


def test_a_clip_does_not_depend_on_those_beside_it(scene: Scene) -> None:
    options = replace(BRIEF, policy="disjoint_all", window=2)
    together, alone = scene.invert(options), scene.invert(options, scene.clips[1:])
    torch.testing.assert_close(together.clips[1].latents, alone.clips[0].latents, **BATCH_LATENTS_FLOAT32)


def test_passes_are_counted_for_each_frame_that_is_kept(scene: Scene) -> None:
    clip = scene.clips[1:]  # 6 frames
    whole = scene.invert(BRIEF, clip)
    disjoint = scene.invert(replace(BRIEF, policy="disjoint_all", window=3), clip)
    released = scene.invert(replace(BRIEF, policy="stride1_first", window=3, cover=False), clip)
    assert whole.passes_per_frame == disjoint.passes_per_frame == 2 * BRIEF.steps
    assert released.passes_per_frame == 3 * 2 * BRIEF.steps
    assert released.clips[0].frames == (0, 1, 2, 3)


def test_flow_is_found_once_and_only_where_it_is_compared(scene: Scene) -> None:
    scene.invert(BRIEF, scene.clips[:1])
    assert scene.flows == 3
    for options in (
        replace(BRIEF, ordered=False),
        replace(BRIEF, consistency="none"),
        replace(BRIEF, consistency_weight=0.0),
    ):
        found = scene.invert(options, scene.clips[:1])
        assert scene.flows == 3
        assert "consistency" not in found.solves[0].losses


def test_as_released_codes_are_reached_by_layer_shared_steps(scene: Scene) -> None:
    options = replace(ConsecutiveOptions.released(steps=3, start="w_avg"), window=3)
    found = scene.invert(options, scene.clips[:1])
    steps = found.clips[0].latents  # of two windows, so only steps within one are shared by the layers
    assert steps.shape == (2, LAYERS, DIM)
    whole = scene.invert(replace(options, policy="whole_clip"), scene.clips[:1])
    moved = whole.clips[0].steps
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), **BATCH_LATENTS_FLOAT32)
    assert moved.abs().max() > 0
    assert set(whole.solves[0].losses) == {"squared", "consistency"}
    zeros = scene.invert(replace(options, steps=0, start="zeros"), scene.clips[:1])
    assert not zeros.clips[0].latents.any()


def test_more_freedom_comes_closer(scene: Scene) -> None:
    steps = replace(BRIEF, steps=12, consistency="none")
    free, shared, static = (
        scene.invert(replace(steps, share=share), scene.clips[1:]) for share in ("free", "static_steps", "static")
    )
    scene.clips = scene.clips[1:]
    assert scene.psnr(free, 0) > scene.psnr(static, 0)
    assert scene.psnr(shared, 0) > scene.psnr(static, 0)


def test_the_domain_term_keeps_codes_where_the_encoder_puts_their_pictures(scene: Scene) -> None:
    @torch.no_grad()
    def distance(weight: float) -> float:
        found = scene.invert(replace(BRIEF, share="free", steps=8, domain_weight=weight))
        codes = torch.cat([clip.latents for clip in found.clips])
        return float((codes - scene.encoder(scene.generator(codes))).square().mean())

    assert distance(1.0) < 0.9 * distance(0.0)
    options = replace(BRIEF, start="w_avg", domain_weight=1.0)
    with pytest.raises(InvalidInput, match="domain term want an encoder"):
        consecutive(scene.generator, scene.clips, mean=scene.generator.w_avg, layers=LAYERS, options=options)


def test_progress_counts_all_batches_and_a_killed_run_goes_on(scene: Scene, tmp_path: Path) -> None:
    options = replace(BRIEF, frames_per_batch=1)
    checkpoint = Checkpoint(tmp_path / "clips.safetensors", every=2)
    told: list[int] = []

    def on_step(step: int) -> None:
        told.append(step)
        if step == 7 and len(told) == 7:
            raise KeyboardInterrupt

    def run() -> ConsecutiveInversion:
        return consecutive(
            scene.generator,
            scene.clips,
            encode=scene.encoder,
            options=options,
            flow=scene.flow,
            on_step=on_step,
            checkpoint=checkpoint,
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    found, whole = run(), scene.invert(options)
    assert told == [*range(1, 8), 7, 8]  # the first batch was done, the second goes on from its 2nd step
    for mine, theirs in zip(found.clips, whole.clips, strict=True):
        assert torch.equal(mine.latents, theirs.latents)


def test_what_cannot_be_inverted_is_told(scene: Scene) -> None:
    with pytest.raises(InvalidInput, match=r"clip 1 has 1.*w_plus or in_domain"):
        scene.invert(BRIEF, [scene.clips[0], scene.clips[1][:1]])
    broken = scene.clips[1].clone()
    broken[3, 0, 5, 5] = float("nan")
    with pytest.raises(InvalidInput, match="frame 3 of the frames of clip 1 holds NaN"):
        scene.invert(BRIEF, [scene.clips[0], broken])
    with pytest.raises(InvalidInput, match=r"clip 1 is \[4, 3, 32, 32\]"):
        scene.invert(BRIEF, [scene.clips[0], scene.clips[0][:, :, ::2, ::2]])
    with pytest.raises(InvalidInput, match="want an encoder"):
        consecutive(scene.generator, scene.clips)
    with pytest.raises(InvalidInput, match="number of layers"):
        consecutive(scene.generator, scene.clips, options=replace(BRIEF, start="w_avg"))
    with pytest.raises(InvalidInput, match="at least 2 images"):
        ConsecutiveOptions(window=1)
