"""Any number of edited images of a frame, in both spaces, in one synthesis batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from legato.editing.directions import Directions
from legato.errors import InvalidEdit, LegatoError
from legato.pipeline import Pipeline
from legato.types import DirectionInfo, Edit, Frame, FrameAnswer, FrameJob, Outputs
from tests.pipeline.model import OVERFLOW, SMILE, Model, small_model, stream, to_image, to_pixels
from tests.tolerances import LEVELS_ROUNDING

MOUTH = (Edit("mouth", 2.0),)  # a step of S
BOTH = (Edit("smile", -1.0), Edit("mouth", 1.0), Edit("brow", -3.0))


@pytest.fixture(scope="module")
def model() -> Model:
    """`mouth` moves a few channels of one layer of S, `brow` one channel of each of two."""
    made = small_model()
    sizes = [layer.shape[1] for layer in made.generator.styles(made.generator.w_avg.expand(1, 10, -1))]
    mouth, brow = torch.zeros(sum(sizes)), torch.zeros(sum(sizes))
    mouth[sum(sizes[:4]) : sum(sizes[:4]) + 3] = torch.tensor([1.0, -2.0, 0.5])
    brow[sizes[0] + 1], brow[-1] = 1.5, 0.25
    vectors = {"smile": made.directions.vector("smile"), "overflow": made.directions.vector("overflow")}
    vectors |= {"mouth": mouth, "brow": brow}
    infos = {
        name: DirectionInfo(name, "", response=0.0, leakage=0.0, space="w+" if step.dim() == 2 else "s")
        for name, step in vectors.items()
    }
    return Model(made.generator, made.encoder, Directions(vectors, infos, generator_digest=""))


@pytest.fixture(scope="module")
def frames(model: Model) -> list[Frame]:
    return stream(model, 4)


@pytest.fixture
def pipeline(model: Model) -> Pipeline:
    return Pipeline(model.generator, model.encoder, model.directions, slots=4, max_steps=8)


@pytest.fixture
def synthesized(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes of every synthesis."""
    sizes: list[int] = []
    whole = pipeline.generator.synthesize

    def counted(styles: list[torch.Tensor], *args: object, **named: object) -> torch.Tensor:
        sizes.append(styles[0].shape[0])
        return whole(styles, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline.generator, "synthesize", counted)
    return sizes


def answer(result: FrameAnswer | LegatoError) -> FrameAnswer:
    assert isinstance(result, FrameAnswer), result
    return result


def drawn(model: Model, frame: Frame, *, smile: float = 0.0, mouth: float = 0.0, brow: float = 0.0) -> NDArray[np.int_]:
    """The picture of the frame's code with these edits, put together by hand."""
    with torch.inference_mode():
        latents = model.encoder(to_image(frame)) + smile * model.directions.vector("smile")
        styles = model.generator.styles(latents)
        step = mouth * model.directions.style_step("mouth") + brow * model.directions.style_step("brow")
        parts = step.split([layer.shape[1] for layer in styles])
        moved = [layer + part for layer, part in zip(styles, parts, strict=True)]
        return to_pixels(model.generator.synthesize(moved)[0]).astype(int)


def test_every_variant_is_answered_with_its_image(
    pipeline: Pipeline, model: Model, frames: list[Frame], synthesized: list[int]
) -> None:
    variants = (MOUTH, (Edit("smile", 0.0),), BOTH)
    found = answer(pipeline.run([FrameJob(0, 1, frames[0], SMILE, variants=variants)])[0])
    assert synthesized == [1 + 1 + 3]
    assert len(found.variants) == 3
    wanted = [
        (found.reconstruction, {}),
        (found.edited, {"smile": 1.5}),
        (found.variants[0], {"mouth": 2.0}),
        (found.variants[1], {}),
        (found.variants[2], {"smile": -1.0, "mouth": 1.0, "brow": -3.0}),
    ]
    for pixels, edits in wanted:
        assert pixels is not None
        np.testing.assert_allclose(pixels.astype(int), drawn(model, frames[0], **edits), **LEVELS_ROUNDING)
    assert found.reconstruction is not None
    assert not np.array_equal(found.variants[0], found.reconstruction)


def test_variants_of_several_frames_are_one_batch(
    pipeline: Pipeline, model: Model, frames: list[Frame], synthesized: list[int]
) -> None:
    """Each frame has its own; who asks for none, or skips them, has none."""
    jobs = [
        FrameJob(0, 1, frames[0], variants=(SMILE, MOUTH)),
        FrameJob(1, 1, frames[1]),
        FrameJob(2, 1, frames[2], SMILE, Outputs(edited=False), variants=(SMILE,)),
        FrameJob(-1, 1, frames[3], outputs=Outputs(reconstruction=False), variants=(BOTH,)),
    ]
    found = [answer(result) for result in pipeline.run(jobs)]
    assert synthesized == [3 + 3]
    assert [len(each.variants) for each in found] == [2, 0, 0, 1]
    assert [each.edited is not None for each in found] == [False] * 4
    assert [math.isnan(each.psnr_db) for each in found] == [False, False, False, True]
    expected = drawn(model, frames[3], smile=-1.0, mouth=1.0, brow=-3.0)
    np.testing.assert_allclose(found[3].variants[0].astype(int), expected, **LEVELS_ROUNDING)
    expected = drawn(model, frames[0], mouth=2.0)
    np.testing.assert_allclose(found[0].variants[1].astype(int), expected, **LEVELS_ROUNDING)


def test_a_large_synthesis_goes_in_the_sizes_that_are_warm(
    model: Model, frames: list[Frame], synthesized: list[int], pipeline: Pipeline
) -> None:
    steps = tuple((Edit("smile", strength),) for strength in np.linspace(-2, 2, 9))
    whole = answer(pipeline.run([FrameJob(0, 1, frames[0], SMILE, variants=steps)])[0])
    assert synthesized == [8, 3]
    synthesized.clear()
    small = Pipeline(model.generator, model.encoder, model.directions, slots=1, image_sizes=(1, 2, 4))
    split = answer(small.run([FrameJob(0, 1, frames[0], SMILE, variants=steps)])[0])
    assert synthesized == [4, 4, 2, 1]
    assert len(whole.variants) == len(split.variants) == 9
    for one, other in zip(whole.variants, split.variants, strict=True):
        np.testing.assert_allclose(one.astype(int), other.astype(int), **LEVELS_ROUNDING)


def test_rows_without_style_edits_are_not_touched_by_others(
    pipeline: Pipeline, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit as without them, and the styles are not taken apart where nobody asks for S."""
    plain = answer(pipeline.run([FrameJob(-1, 1, frames[0], variants=(SMILE, SMILE))])[0])
    mixed = answer(pipeline.run([FrameJob(-1, 1, frames[0], variants=(SMILE, MOUTH))])[0])
    np.testing.assert_array_equal(plain.reconstruction, mixed.reconstruction)
    np.testing.assert_array_equal(plain.variants[0], mixed.variants[0])
    assert not np.array_equal(plain.variants[1], mixed.variants[1])
    forwards = []
    hook = pipeline.generator.register_forward_hook(lambda module, args, output: forwards.append(output.shape[0]))
    pipeline.run([FrameJob(-1, 1, frames[0], SMILE), FrameJob(-1, 1, frames[1], variants=(SMILE,))])
    hook.remove()
    assert forwards == [4]


def test_a_variant_that_is_wrong_is_that_frames_alone(pipeline: Pipeline, frames: list[Frame]) -> None:
    jobs = [
        FrameJob(0, 1, frames[0], variants=(SMILE,)),
        FrameJob(1, 1, frames[1], variants=(SMILE, (Edit("nose", 1.0),))),
        FrameJob(2, 1, frames[2], variants=(SMILE, OVERFLOW)),
    ]
    good, unknown, spoiled = pipeline.run(jobs)
    assert answer(good).state_version == 1
    assert isinstance(unknown, InvalidEdit)
    assert isinstance(spoiled, LegatoError)
    assert spoiled.reason == "NOT_FINITE"


def test_a_job_knows_how_many_images_it_costs() -> None:
    frame = Frame(np.zeros((64, 64, 3), np.uint8))
    wanted = [
        (FrameJob(0, 1, frame), 1),
        (FrameJob(0, 1, frame, SMILE), 2),
        (FrameJob(0, 1, frame, SMILE, variants=(SMILE, MOUTH)), 4),
        (FrameJob(0, 1, frame, SMILE, Outputs(edited=False), variants=(SMILE,)), 1),
        (FrameJob(0, 1, frame, SMILE, Outputs(reconstruction=False)), 1),
        (FrameJob(0, 1, frame, SMILE, Outputs(reconstruction=False), max_steps=1), 2),
        (FrameJob(0, 1, frame, outputs=Outputs(False, False, True)), 0),
    ]
    assert [job.images for job, _ in wanted] == [images for _, images in wanted]
