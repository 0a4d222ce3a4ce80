"""Models with versions in a running server: swaps under streams, pinned sessions, refusals, memory."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from legato.engine import Engine
from legato.models import Generator, load_generator, save_model
from legato.models_served import Models
from legato.repository import Source
from legato_pb import inversion_pb2 as pb
from tests.rpc.repository import Shelf, Versions, damage, label, serving
from tests.rpc.running import wait_until
from tests.rpc.test_life import health
from tests.rpc.wire import kinds, picture, refusal


def generator_of(models: Models, wanted: str) -> weakref.ref[Generator]:
    (served,) = [one for one in models.listed() if one.source.label == wanted]
    return weakref.ref(served.engine._pipeline.generator)


def test_a_swap_under_a_stream_touches_no_session_and_frees_the_old_one_with_its_last(
    face: Versions, shelf: Shelf
) -> None:
    generator = generator_of(face.models, "face@1")
    wire = face.wire().open()
    refs: list[pb.ModelRef] = []
    swapped = threading.Event()

    def stream() -> None:
        seq = 0
        while not swapped.is_set() or seq < 3:
            seq += 1
            wire.frame(seq)
            result = wire.result()
            assert (result.seq, result.state_version) == (seq, seq)
            refs.append(result.model_ref)

    with wire, ThreadPoolExecutor(1) as thread:
        streaming = thread.submit(stream)
        shelf.put("face/2", seed=1)
        loaded = face.load("face")
        assert (label(loaded), loaded.current, loaded.is_default) == ("face@2", True, True)
        assert face.opened() == face.opened("face") == "face@2"
        swapped.set()
        streaming.result(60)
        assert {label(ref) for ref in refs} == {"face@1"}
        assert {ref.digest for ref in refs} == {wire.opened.model.digest}
        assert wire.opened.model.digest != loaded.info.digest
        assert face.listed() == {"face@2": "READY", "face@1": "DRAINING"}
        assert face.value("legato_model_versions", model="face") == 2
        assert face.value("legato_model_sessions", model="face") == 1
        refused = refusal(face.wire().open, model="face@1")
        assert (refused.code, refused.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert "'face@1' (draining)" in refused.message
        wire.send(close=pb.Close())
        assert kinds(wire.rest()) == ["closed"]
    wait_until(lambda: face.listed() == {"face@2": "READY"})
    wait_until(lambda: generator() is None)
    assert face.value("legato_model_versions", model="face") == 1
    assert face.value("legato_model_loads_total", model="face", outcome="loaded") == 2


def test_nothing_that_computed_a_model_stays_but_its_engine(
    face: Versions, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of OpenMP that belong to other threads would slow the engine's down: legato/threads.py."""
    build, builders = face.models._build, list[threading.Thread]()

    def recorded(source: Source) -> Engine:
        builders.append(threading.current_thread())
        return build(source)

    monkeypatch.setattr(face.models, "_build", recorded)
    shelf.put("face/2", seed=1)
    face.load("face")
    (builder,) = builders
    wait_until(lambda: not builder.is_alive())


def test_a_session_that_was_cut_is_resumed_on_its_own_version(face: Versions, shelf: Shelf) -> None:
    with face.wire().open() as wire:
        wire.frame(1)
        wire.result()
    token = wire.opened.resume_token
    shelf.put("face/2", seed=1)
    face.load("face")
    assert face.listed()["face@1"] == "DRAINING", "a session without a stream is one"
    kept = face.stub.GetSession(pb.GetSessionRequest(resume_token=token))
    assert label(kept.model_ref) == "face@1"
    refused = refusal(face.wire().open, resume_token=token, last_seq=1, model="face@2")
    assert (refused.code, refused.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert "is one of 'face@1'; got model 'face@2'" in refused.message
    with face.wire().open(resume_token=token, last_seq=1, model="face") as again:
        assert label(again.opened.model) == "face@1"
        again.frame(2)
        result = again.result()
        assert (result.state_version, label(result.model_ref)) == (2, "face@1")
    face.stub.CloseSession(pb.CloseSessionRequest(resume_token=token))
    wait_until(lambda: face.listed() == {"face@2": "READY"})


def test_a_broken_version_is_refused_with_the_reason_and_the_old_one_stays(face: Versions, shelf: Shelf) -> None:
    with face.wire().open() as wire:
        file = damage(shelf.put("face/2", seed=1))
        refused = refusal(face.load, "face")
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "MODEL_FILE")
        assert f"{file} is damaged" in refused.message
        (failed,) = [v for v in face.stub.ListModels(pb.ListModelsRequest()).versions if v.version == "2"]
        assert (failed.state, failed.current) == (pb.MODEL_STATE_FAILED, False)
        assert failed.reason == refused.message
        assert face.opened() == "face@1"
        wire.frame(1)
        assert label(wire.result().model_ref) == "face@1"
    assert face.value("legato_model_loads_total", model="face", outcome="failed") == 1
    file.parent.rename(shelf.folder / "face" / "2.broken")
    shelf.put("face/2", seed=1)
    assert face.load("face").state == pb.MODEL_STATE_READY, "mended, it is loaded"
    assert face.listed()["face@2"] == "READY"


def test_a_version_whose_warm_up_fails_is_refused(face: Versions, shelf: Shelf) -> None:
    folder = shelf.put("face/2", seed=0)
    generator = load_generator(folder)
    for parameter in generator.parameters():
        parameter.fill_(3e38)
    digest = load_generator(folder).digest
    save_model(generator, folder / "generator.safetensors", meta={}, dtype=torch.float32)
    assert load_generator(folder).digest != digest
    (folder / "directions.safetensors").unlink()
    save_empty_directions(folder)
    refused = refusal(face.load, "face", "2")
    assert (refused.code, refused.reason) == ("INTERNAL", "NOT_FINITE")
    assert face.listed() == {"face@2": "FAILED", "face@1": "READY"}
    assert face.opened() == "face@1"


def save_empty_directions(folder: Path) -> None:
    from legato.editing.directions import Directions, save_directions

    none = Directions({}, {}, generator_digest=load_generator(folder).digest)
    save_directions(none, folder / "directions.safetensors", provenance={})


def test_an_unload_is_refused_while_it_is_used_and_drains_where_that_is_wanted(face: Versions) -> None:
    generator = generator_of(face.models, "face@1")
    with face.wire().open() as wire:
        refused = refusal(face.unload, "face")
        assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "MODEL_IN_USE")
        assert "1 sessions and calls use 'face'" in refused.message
        assert face.opened() == "face@1"
        assert face.unload("face", "1", drain=True) == 1
        for model in ("", "face", "face@1"):
            assert refusal(face.wire().open, model=model).reason == "MODEL_NOT_FOUND"
        wire.frame(1)
        wire.result()
        wire.send(close=pb.Close())
        wire.rest()
    wait_until(lambda: face.listed() == {})
    wait_until(lambda: generator() is None)
    assert refusal(face.unload, "face").reason == "MODEL_NOT_FOUND"
    assert face.listed(unloaded=True) == {"face@1": "UNLOADED"}
    face.load("face")
    assert face.opened() == "face@1"
    assert face.unload("face") == 0
    assert face.listed() == {}, "nobody used it: it has gone when the call is answered"


def test_a_version_beside_another_is_opened_by_its_number(face: Versions, shelf: Shelf) -> None:
    shelf.put("face/2", seed=1)
    loaded = face.load("face", beside=True)
    assert (label(loaded), loaded.current) == ("face@2", False)
    assert (face.opened(), face.opened("face@2"), face.opened("face@1")) == ("face@1", "face@2", "face@1")
    assert face.listed() == {"face@2": "READY", "face@1": "READY"}
    assert [label(info) for info in face.stub.ListModels(pb.ListModelsRequest()).models] == ["face@2", "face@1"]
    face.unload("face", "1")
    assert face.opened("face") == "face@2", "the name opens what is left"


def test_a_version_that_still_drains_comes_back_without_being_loaded_again(face: Versions, shelf: Shelf) -> None:
    with face.wire().open() as wire:
        first = generator_of(face.models, "face@1")
        shelf.put("face/2", seed=1)
        face.load("face")
        assert face.load("face", "1").state == pb.MODEL_STATE_READY
        assert face.opened() == "face@1"
        assert generator_of(face.models, "face@1")() is first()
        wait_until(lambda: face.listed() == {"face@1": "READY"})
        wire.frame(1)
        assert wire.result().state_version == 1
    assert face.value("legato_model_loads_total", model="face", outcome="loaded") == 2


def test_a_model_without_versions_is_loaded_anew_when_its_files_change(shelf: Shelf) -> None:
    shelf.put("car")
    (shelf.folder / "face").rmdir()
    with serving(shelf.folder) as running:
        old = running.stub.ListModels(pb.ListModelsRequest()).models[0]
        assert running.load("car").info == old, "the same files are not loaded again"
        (shelf.folder / "car").rename(shelf.folder / ".old")
        shelf.put("car", seed=1)
        with running.wire().open() as wire:
            new = running.load("car").info
            assert (new.name, new.version) == ("car", "")
            assert new.digest != old.digest != new.encoder_digest != old.encoder_digest
            wire.frame(1)
            assert wire.result().model_ref.digest == old.digest
        assert running.opened() == "car"


def test_loads_at_the_same_time_are_one_load_of_each_version(face: Versions, shelf: Shelf) -> None:
    shelf.put("face/2", seed=1)
    shelf.put("car", seed=2)
    with ThreadPoolExecutor(6) as threads:
        loads = [threads.submit(face.load, name) for name in ("face", "car", "face", "car", "face", "face")]
        assert [label(load.result(120)) for load in loads] == ["face@2", "car"] * 2 + ["face@2"] * 2
    wait_until(lambda: face.listed() == {"face@2": "READY", "car": "READY"})
    assert face.value("legato_model_loads_total", model="face", outcome="loaded") == 2
    assert face.value("legato_model_loads_total", model="car", outcome="loaded") == 1


def test_while_versions_change_all_the_time_there_is_always_one_to_open(face: Versions, shelf: Shelf) -> None:
    shelf.put("face/2", seed=1)
    over = threading.Event()

    def swap() -> None:
        for version in ("2", "1", "2", "1"):
            face.load("face", version)

    def come_and_go() -> set[str]:
        seen = set()
        while not over.is_set():
            with face.wire().open() as wire:
                wire.frame(1)
                result = wire.result()
                assert (label(result.model_ref), result.state_version) == (label(wire.opened.model), 1)
                seen.add(label(result.model_ref))
                wire.send(close=pb.Close())
                assert kinds(wire.rest()) == ["closed"]
        return seen

    with ThreadPoolExecutor(4) as threads:
        clients = [threads.submit(come_and_go) for _ in range(2)]
        swaps = [threads.submit(swap) for _ in range(2)]
        try:
            for done in swaps:
                done.result(120)
        finally:
            over.set()
        for client in clients:
            assert client.result(60) <= {"face@1", "face@2"}, "and none was refused"
    wait_until(lambda: len(face.listed()) == 1)
    assert face.value("legato_model_versions", model="face") == 1
    assert face.unload("face") == 0


def test_two_models_at_once_give_what_each_gives_alone(face: Versions, shelf: Shelf) -> None:
    shelf.put("car", seed=1)
    face.load("car")

    def invert(model: str, shade: int) -> bytes:
        request = pb.InvertRequest(
            model=model, image=picture(shade=shade), steps=1, output=pb.OutputOptions(latents=True)
        )
        return face.stub.Invert(request).latents.data

    work = [(model, shade) for shade in (40, 90, 160) for model in ("face", "car")]
    alone = [invert(*item) for item in work]
    with ThreadPoolExecutor(len(work)) as threads:
        assert list(threads.map(lambda item: invert(*item), work * 4)) == alone * 4
    assert len(set(alone)) == len(alone)


def test_a_clip_keeps_its_version_until_it_is_done(face: Versions, shelf: Shelf) -> None:
    shelf.put("face/2", seed=1)
    options = pb.ClipOptions(method="w_plus:steps=2")
    frames = [pb.InvertClipRequest(options=options), *[pb.InvertClipRequest(frame=picture())] * 2]
    begun, go_on = threading.Event(), threading.Event()

    def requests() -> Iterator[pb.InvertClipRequest]:
        yield from frames[:2]
        begun.set()
        go_on.wait(60)
        yield frames[2]

    call: Any = face.stub.InvertClip(requests(), timeout=120)
    assert begun.wait(60)
    wait_until(lambda: any(served.calls for served in face.models.listed()))
    face.load("face")
    assert refusal(face.unload, "face", "1").reason == "MODEL_IN_USE"
    go_on.set()
    done = list(call)[-1].done
    assert label(done.model_ref) == "face@1"
    wait_until(lambda: face.listed() == {"face@2": "READY"})


def test_every_result_tells_of_its_model(face: Versions) -> None:
    info = face.stub.ListModels(pb.ListModelsRequest()).models[0]
    assert len(info.digest) == len(info.encoder_digest) == 64
    wanted = pb.ModelRef(name="face", version="1", digest=info.digest, encoder_digest=info.encoder_digest)
    inverted = face.stub.Invert(pb.InvertRequest(image=picture()))
    drawn = face.stub.Synthesize(pb.SynthesizeRequest(model="face@1", seed=1))
    clip = pb.InvertClipRequest(options=pb.ClipOptions(model="face", method="encoder"))
    call: Any = face.stub.InvertClip(iter([clip, pb.InvertClipRequest(frame=picture())]))
    done = list(call)[-1].done
    with face.wire().open(model="face@1") as wire:
        wire.frame(1)
        refs = [wire.result().model_ref, inverted.model_ref, drawn.model_ref, done.model_ref]
    assert refs == [wanted] * 4
    assert inverted.model_digest == drawn.model_digest == done.model_digest == info.digest


def test_all_models_share_the_places_for_sessions(face: Versions, shelf: Shelf) -> None:
    shelf.put("car", seed=1)
    face.load("car")
    wires = [face.wire().open(model=model) for model in ("face", "car", "face", "car")]
    with pytest.raises(grpc.RpcError) as full:
        face.wire().open(model="car")
    assert full.value.code().name == "RESOURCE_EXHAUSTED"
    assert face.value("legato_model_sessions", model="car") == 2
    for wire in wires:
        wire.send(close=pb.Close())
        wire.rest()
    assert face.value("legato_model_sessions", model="car") == 0


def test_health_and_metrics_follow_the_engine_that_is_worst_off(shelf: Shelf) -> None:
    shelf.put("face/1")
    shelf.put("car", seed=1)
    with serving(shelf.folder, heartbeat_seconds=2.0) as running:
        first, second = running.models.engines
        wait_until(lambda: health(running) == "SERVING")
        first.stop(0.0)
        wait_until(lambda: health(running) == "NOT_SERVING")
        assert first.heartbeat < second.heartbeat
        assert running.value("legato_engine_heartbeat_timestamp_seconds") <= time.time() - 2.0
        running.unload("car" if first.model.name == "car" else "face")
        wait_until(lambda: health(running) == "SERVING")
