"""Sessions opened with a delta of the server's folder: MODEL+DELTA."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from legato.commands.serve import build_engine
from legato.config import EngineConfig
from legato.models import load_generator
from legato.models.delta import save_delta
from legato_pb import inversion_pb2 as pb
from tests.rpc.running import Running, wait_until
from tests.rpc.wire import pixels, refusal


@pytest.fixture(scope="module")
def tuned(
    serve: Callable[..., AbstractContextManager[Running]],
    engine_config: EngineConfig,
    model_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    """A server with the deltas `me`, and `other`, which is another generator's."""
    folder = tmp_path_factory.mktemp("deltas")
    base = load_generator(model_folder)
    moved = copy.deepcopy(base)
    moved.synthesis.block(64).torgb.bias.add_(0.5)
    save_delta(moved, base, folder / "me.safetensors", recipe={})
    base.digest = "2" * 64
    save_delta(moved, base, folder / "other.safetensors", recipe={})
    engine = build_engine(replace(engine_config, deltas=str(folder)))
    engine.start()
    with serve(own_engine=engine) as running:
        yield running
    engine.stop(1.0)


def image(running: Running, model: str) -> tuple[pb.Opened, NDArray[Any]]:
    """What a session's first frame gives, raw."""
    raw = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW_RGB8)
    with running.wire().open(model=model, output=raw) as wire:
        wire.frame(1)
        found = pixels(wire.result().reconstruction).astype(int)
        wire.send(close=pb.Close())
        while wire.next().WhichOneof("message") != "closed":
            pass
    return wire.opened, found


def test_a_session_with_a_delta_sees_its_own_generator(tuned: Running) -> None:
    plain, before = image(tuned, "")
    own, moved = image(tuned, "tiny+me")
    _, after = image(tuned, "tiny")
    assert (own.model.name, plain.model.name) == ("tiny+me", "tiny")
    assert len({own.model.digest, plain.model.digest}) == 2
    inside = (before > 0) & (before < 150)
    assert np.abs((moved - before)[inside] - 0.5 * 127.5).mean() < 2  # the bias that was moved, in levels
    np.testing.assert_array_equal(after, before)  # the slot is the model's again


def test_it_is_resumed_with_its_weights(tuned: Running) -> None:
    raw = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW_RGB8)
    with tuned.wire().open(model="tiny+me", output=raw) as wire:
        wire.frame(1)
        first = pixels(wire.result().reconstruction)
        token = wire.opened.resume_token
    wait_until(lambda: not tuned.stub.GetSession(pb.GetSessionRequest(resume_token=token)).streaming)
    with tuned.wire().open(model="tiny+me", resume_token=token, last_seq=1, output=raw) as again:
        assert again.opened.model.digest == wire.opened.model.digest
        again.frame(2)
        np.testing.assert_array_equal(pixels(again.result().reconstruction), first)
        assert tuned.stub.GetSession(pb.GetSessionRequest(resume_token=token)).model == "tiny+me"


@pytest.mark.parametrize(
    ("model", "reason"),
    [("tiny+you", "DELTA_NOT_FOUND"), ("tiny+other", "DELTA_REFUSED"), ("huge+me", "MODEL_NOT_FOUND")],
)
def test_what_cannot_be_opened_takes_no_place(tuned: Running, model: str, reason: str) -> None:
    taken = tuned.value("legato_sessions_active")
    with tuned.wire() as wire:
        refused = refusal(wire.open, model=model)
    assert refused.reason == reason
    assert tuned.value("legato_sessions_active") == taken


def test_without_a_folder_there_are_no_deltas(running: Running) -> None:
    with running.wire() as wire:
        refused = refusal(wire.open, model="tiny+me")
    assert refused.reason == "DELTA_NOT_FOUND"
    assert "started without --deltas" in refused.message
