"""Unary calls, and how every refusal looks on the wire."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from legato.engine import Engine
from legato_pb import inversion_pb2 as pb
from tests.rpc.model import DIM, LAYERS, NAMES
from tests.rpc.running import Running
from tests.rpc.wire import RESOLUTION, picture, pixels, refusal

SMILE = pb.Edit(direction="smile", strength=1.5)


def test_invert_answers_one_image(running: Running) -> None:
    output = pb.OutputOptions(latents=True)
    answer = running.stub.Invert(pb.InvertRequest(image=picture(), edits=[SMILE], steps=1, output=output))
    assert pixels(answer.reconstruction).shape == pixels(answer.edited).shape == (RESOLUTION, RESOLUTION, 3)
    assert (answer.latents.layers, answer.latents.dim) == (LAYERS, DIM)
    assert math.isfinite(answer.quality.psnr_db)
    assert answer.model_digest == running.stub.ListModels(pb.ListModelsRequest()).models[0].digest


def test_synthesize_draws_a_seed_and_gives_back_what_draws_it_again(running: Running) -> None:
    output = pb.OutputOptions(latents=True, format=pb.IMAGE_FORMAT_RAW_RGB8)
    seeded = running.stub.Synthesize(pb.SynthesizeRequest(seed=7, output=output))
    again = running.stub.Synthesize(pb.SynthesizeRequest(latents=seeded.latents, output=output))
    assert seeded.image == again.image
    assert seeded.image.width == RESOLUTION
    other = running.stub.Synthesize(pb.SynthesizeRequest(seed=8, output=output))
    edited = running.stub.Synthesize(pb.SynthesizeRequest(seed=7, edits=[SMILE], output=output))
    assert other.image != seeded.image != edited.image
    assert edited.latents == seeded.latents


def test_models_and_directions_are_listed(running: Running) -> None:
    (model,) = running.stub.ListModels(pb.ListModelsRequest()).models
    assert (model.name, model.resolution, model.layers, model.dim) == ("tiny", RESOLUTION, LAYERS, DIM)
    assert len(model.digest) == 64
    directions = running.stub.ListDirections(pb.ListDirectionsRequest(model="tiny")).directions
    assert tuple(direction.name for direction in directions) == NAMES
    assert directions[0].description == "more smile"
    assert directions[0].response == pytest.approx(2.0)


def test_the_service_describes_itself(running: Running) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {"legato.v1.InversionService", "grpc.health.v1.Health"}


NAN_LATENTS = pb.Latents(layers=LAYERS, dim=DIM, data=np.full((LAYERS, DIM), np.nan, "<f4").tobytes())
OPEN_REFUSALS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "unknown model": (
        {"model": "other"},
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "unknown model 'other'; this server has 'tiny'",
    ),
    "lossless": ({"policy": 3}, "INVALID_ARGUMENT", "POLICY_NOT_AVAILABLE", "choose ORDERED or LATEST"),
    "unknown policy": ({"policy": 9}, "INVALID_ARGUMENT", "POLICY_NOT_AVAILABLE", "unknown policy 9; choose ORDERED"),
    "unknown direction": (
        {"edits": [pb.Edit(direction="nose")]},
        "INVALID_ARGUMENT",
        "UNKNOWN_DIRECTION",
        "known: smile, yaw",
    ),
    "NaN strength": (
        {"edits": [pb.Edit(direction="yaw", strength=math.nan)]},
        "INVALID_ARGUMENT",
        "INVALID_EDIT",
        "got nan",
    ),
    "steps": (
        {"budget": pb.Budget(max_steps=5)},
        "INVALID_ARGUMENT",
        "INVALID_INPUT",
        "at most 4 on this server; got 5",
    ),
    "window steps": (
        {"budget": pb.Budget(window_steps=1)},
        "INVALID_ARGUMENT",
        "INVALID_INPUT",
        "budget.window_steps is 0 on this server, which has no windows; got 1",
    ),
    "deadline": ({"budget": pb.Budget(deadline_seconds=-1)}, "INVALID_ARGUMENT", "INVALID_INPUT", "from 0 up; got -1"),
    "quality": ({"output": pb.OutputOptions(jpeg_quality=101)}, "INVALID_ARGUMENT", "INVALID_INPUT", "got 101"),
}


@pytest.mark.parametrize("name", OPEN_REFUSALS)
def test_an_open_that_cannot_be_right_is_refused(running: Running, name: str) -> None:
    options, code, reason, message = OPEN_REFUSALS[name]
    refused = refusal(running.wire().open, **options)
    assert (refused.code, refused.reason, refused.domain) == (code, reason, "legato")
    assert message in refused.message
    assert bool(refused.field) == (code == "INVALID_ARGUMENT")
    assert running.value("legato_sessions_active") == 0


CALL_REFUSALS: dict[str, tuple[str, Any, str, str]] = {
    "no image": ("Invert", pb.InvertRequest(), "INVALID_ARGUMENT", "image.format is one of"),
    "steps": ("Invert", pb.InvertRequest(image=picture(), steps=99), "INVALID_ARGUMENT", "steps is at most 4"),
    "model": ("Invert", pb.InvertRequest(model="x"), "NOT_FOUND", "unknown model 'x'"),
    "directions": ("ListDirections", pb.ListDirectionsRequest(model="x"), "NOT_FOUND", "unknown model 'x'"),
    "truncation": ("Synthesize", pb.SynthesizeRequest(truncation=math.nan), "INVALID_ARGUMENT", "between 0"),
    "latents": (
        "Synthesize",
        pb.SynthesizeRequest(latents=pb.Latents(layers=1, dim=1, data=b"1234")),
        "INVALID_ARGUMENT",
        f"float32 [{LAYERS}, {DIM}]; got [1, 1] with 4 bytes",
    ),
    "NaN latents": ("Synthesize", pb.SynthesizeRequest(latents=NAN_LATENTS), "INVALID_ARGUMENT", "got NaN"),
}


@pytest.mark.parametrize("name", CALL_REFUSALS)
def test_a_call_that_cannot_be_right_is_refused(running: Running, name: str) -> None:
    method, request, code, message = CALL_REFUSALS[name]
    refused = refusal(getattr(running.stub, method), request)
    assert refused.code == code
    assert refused.domain == "legato"
    assert message in refused.message


def test_a_frame_before_open_and_a_second_open_end_the_stream(running: Running) -> None:
    with running.wire() as wire:
        wire.frame(1)
        refused = refusal(wire.next)
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "NOT_OPEN")
        assert "the first message of a stream is open; got frame" in refused.message
    with running.wire() as wire:
        wire.send()
        assert "got an empty message" in refusal(wire.next).message
    with running.wire().open() as wire:
        wire.send(open=pb.Open())
        refused = refusal(wire.next)
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "ALREADY_OPEN")
    with running.wire().open(resume_token=wire.opened.resume_token) as again:
        again.frame(1)
        assert again.result().seq == 1


def test_a_message_over_the_limit_fails_its_frame_and_one_far_over_it_cuts_the_stream(
    serve: Callable[..., AbstractContextManager[Running]],
) -> None:
    with serve(max_message_bytes=100_000) as running, running.wire().open() as other:
        with running.wire().open() as wire:
            assert wire.opened.limits.max_message_bytes == 100_000
            wire.frame(1, picture(200))
            failed = wire.failed()
            assert (failed.reason, "at most 100000 bytes; got 120000" in failed.message) == ("IMAGE_TOO_LARGE", True)
            wire.frame(2)
            assert wire.result().seq == 2
            wire.frame(3, picture(300))
            refused = refusal(wire.next)
            assert refused.code == "RESOURCE_EXHAUSTED"
            assert "message larger than max" in refused.message
        other.frame(1)
        assert other.result().seq == 1
        with running.wire().open(resume_token=wire.opened.resume_token, last_seq=2) as again:
            again.frame(4)
            assert again.result().state_version == 2


def test_a_refusal_s_metadata_stays_small(running: Running) -> None:
    edit = pb.Edit(direction="\N{SNOWMAN}" * 100_000, strength=1)
    refused = refusal(running.wire().open, edits=[edit])
    assert refused.reason == "UNKNOWN_DIRECTION"
    assert refused.metadata_bytes < 4096
    refused = refusal(running.wire().open, edits=[pb.Edit(direction="\N{SNOWMAN}" * 100_000, strength=math.inf)])
    assert refused.reason == "INVALID_EDIT"
    assert refused.metadata_bytes < 4096


def test_an_error_that_nobody_meant_tells_an_id_and_nothing_else(
    running: Running, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise RuntimeError("the secret path /etc/legato")

    monkeypatch.setattr(engine, "synthesize", broken)
    with caplog.at_level(logging.ERROR):
        refused = refusal(running.stub.Synthesize, pb.SynthesizeRequest(seed=1))
    assert (refused.code, refused.reason) == ("INTERNAL", "INTERNAL")
    assert "secret" not in refused.message
    (record,) = [record for record in caplog.records if record.name == "legato.rpc.interceptors"]
    name = record.__dict__["fields"]["error_id"]
    assert name in refused.message
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


def test_a_frame_that_meets_such_an_error_fails_alone(
    running: Running, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("the secret path /etc/legato")

    with running.wire().open() as wire:
        with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
            patch.setattr(engine, "submit", broken)
            wire.frame(1)
            failed = wire.failed()
        assert failed.reason == "INTERNAL"
        assert "secret" not in failed.message
        wire.frame(2)
        assert wire.result().seq == 2
