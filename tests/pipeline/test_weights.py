"""Streams with weights of their own: each sees its generator, whoever shares a batch with it."""

from __future__ import annotations

import copy
import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from legato.deltas import Deltas
from legato.errors import InvalidInput, NotFound
from legato.models.delta import save_delta
from legato.models.generator import Generator
from legato.pipeline import Pipeline
from legato.types import FrameAnswer, FrameJob, ModelInfo, Outputs
from tests.pipeline.model import DIM, LAYERS, SIDE, SMILE, Model, small_model, stream
from tests.tolerances import BATCH_LATENTS_FLOAT32, LEVELS_ROUNDING

INFO = ModelInfo("tiny", "", SIDE, LAYERS, DIM)


@pytest.fixture(scope="module")
def model() -> Model:
    found = small_model()
    found.generator.requires_grad_(False).digest = "1" * 64
    return found


def moved(generator: Generator, seed: int = 3) -> Generator:
    torch.manual_seed(seed)
    found = copy.deepcopy(generator)
    for name, parameter in found.synthesis.named_parameters():
        if name.endswith("weight") and "affine" not in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return found


def pipeline(model: Model, generator: Generator | None = None) -> Pipeline:
    return Pipeline(generator or model.generator, model.encoder, model.directions, slots=3, max_steps=2)


def answers(pipe: Pipeline, slots: list[int], model: Model, length: int = 3) -> list[list[FrameAnswer]]:
    """Of each slot, its frames' answers; all slots' frames are one batch."""
    found: list[list[FrameAnswer]] = [[] for _ in slots]
    for seq, image in enumerate(stream(model, length), 1):
        jobs = [FrameJob(slot, seq, image, SMILE, max_steps=2, outputs=Outputs(latents=True)) for slot in slots]
        for row, result in enumerate(pipe.run(jobs)):
            assert isinstance(result, FrameAnswer), result
            found[row].append(result)
    return found


def assert_same(found: list[FrameAnswer], wanted: list[FrameAnswer]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.latents is not None
        assert b.latents is not None
        assert a.steps == b.steps
        np.testing.assert_allclose(a.latents, b.latents, **BATCH_LATENTS_FLOAT32)
        for one, other in ((a.reconstruction, b.reconstruction), (a.edited, b.edited)):
            assert one is not None
            assert other is not None
            np.testing.assert_allclose(one.astype(int), other.astype(int), **LEVELS_ROUNDING)


def test_a_mixed_batch_gives_each_stream_what_its_generator_gives(model: Model) -> None:
    other = moved(model.generator)
    (plain,), (tuned,) = (answers(pipeline(model, g), [0], model) for g in (None, other))
    assert abs(plain[-1].psnr_db - tuned[-1].psnr_db) > 0.1  # there is something to tell apart
    mixed = pipeline(model)
    mixed.tune(1, other)
    found = answers(mixed, [0, 1, 2], model)
    for row, wanted in enumerate((plain, tuned, plain)):
        assert_same(found[row], wanted)


def test_a_slot_that_is_given_back_has_the_models_weights(model: Model) -> None:
    pipe = pipeline(model)
    pipe.tune(0, moved(model.generator))
    answers(pipe, [0], model)
    pipe.tune(0, None)
    pipe.reset(0)
    ((wanted,), (found,)) = answers(pipeline(model), [0], model), answers(pipe, [0], model)
    assert_same(found, wanted)


def test_a_delta_is_read_once_while_it_is_used(model: Model, tmp_path: Path) -> None:
    save_delta(moved(model.generator), model.generator, tmp_path / "me.safetensors", recipe={})
    deltas = Deltas(tmp_path, model.generator, INFO)
    first = deltas.load("me")
    assert deltas.load("me") is first
    assert first.digest not in ("", model.generator.digest)
    deltas.give(2, "me", first)
    assert deltas.model(2) == ModelInfo("tiny+me", first.digest, SIDE, LAYERS, DIM)
    assert deltas.model(1) == INFO
    assert deltas.changes() == [(2, first)]
    deltas.take_back(2)
    deltas.take_back(1)  # had none
    assert deltas.changes() == [(2, None)]
    assert deltas.model(2) == INFO
    digest = first.digest
    del first
    gc.collect()
    assert not deltas._kept  # nobody uses it: its memory is free
    assert deltas.load("me").digest == digest


@pytest.mark.parametrize("name", ["you", "../me", "..", "", ".hidden", "a/b", "x" * 300])
def test_names_that_are_no_files_of_the_folder(model: Model, tmp_path: Path, name: str) -> None:
    (tmp_path / "deltas").mkdir()
    save_delta(moved(model.generator), model.generator, tmp_path / "me.safetensors", recipe={})
    with pytest.raises(NotFound, match=r"knows no delta .*no file of that name") as told:
        Deltas(tmp_path / "deltas", model.generator, INFO).load(name)
    assert told.value.reason == "DELTA_NOT_FOUND"
    with pytest.raises(NotFound, match="started without --deltas"):
        Deltas("", model.generator, INFO).load(name)


def test_a_delta_of_another_generator_is_refused(model: Model, tmp_path: Path) -> None:
    other = copy.deepcopy(model.generator)
    other.digest = "2" * 64
    save_delta(moved(other), other, tmp_path / "me.safetensors", recipe={})
    (tmp_path / "bad.safetensors").write_bytes(b"no delta")
    deltas = Deltas(tmp_path, model.generator, INFO)
    for name, told in (("me", "was tuned on the generator 2222"), ("bad", "cannot be read as safetensors")):
        with pytest.raises(InvalidInput, match=told) as refused:
            deltas.load(name)
        assert refused.value.reason == "DELTA_REFUSED"
