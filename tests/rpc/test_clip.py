"""InvertClip over real gRPC: progress and results, cancellation, the queue, streams beside it, refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from legato.engine import Engine
from legato.inversion.method import parse_method
from legato.inversion.methods import Networks, invert_clips
from legato.inversion.pauses import pausing
from legato.models import load_encoder, load_generator
from legato.options import Encoding, ImageFormat
from legato.rpc import clip
from legato.rpc.codec import encode
from legato_pb import inversion_pb2 as pb
from tests.rpc.model import DIM, LAYERS
from tests.rpc.running import Running, wait_until
from tests.rpc.test_life import Stopping
from tests.rpc.wire import RESOLUTION, TIMEOUT_SECONDS, Refusal, picture, pixels, refusal

Serve = Callable[..., AbstractContextManager[Running]]
Hold = Callable[[], AbstractContextManager[None]]
RAW = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW_RGB8, latents=True)
SMILE = pb.Edit(direction="smile", strength=1.5)
ENDLESS = "consecutive:steps=1000"


def shades(count: int) -> list[pb.Image]:
    return [picture(shade=60 + 20 * index) for index in range(count)]


def requests(
    frames: list[pb.Image], method: str = "consecutive:steps=2", **options: Any
) -> Iterator[pb.InvertClipRequest]:
    yield pb.InvertClipRequest(options=pb.ClipOptions(method=method, **options))
    for frame in frames:
        yield pb.InvertClipRequest(frame=frame)


def invert(running: Running, frames: list[pb.Image], method: str = "consecutive:steps=2", **options: Any) -> Any:
    """The call; iterate for its answers."""
    return running.stub.InvertClip(requests(frames, method, **options), timeout=TIMEOUT_SECONDS)


def parted(call: Any) -> dict[str, list[Any]]:
    """All answers of a call by their kind."""
    found: dict[str, list[Any]] = {"queued": [], "progress": [], "frame": [], "done": []}
    kinds = []
    for answer in call:
        kinds.append(kind := str(answer.WhichOneof("message")))
        found[kind].append(getattr(answer, kind))
    assert kinds == sorted(kinds, key=list(found).index), "queued, progress, frames, done"
    return found


def refused(running: Running, *arguments: Any, **options: Any) -> Refusal:
    """How a clip is refused."""
    return refusal(lambda: list(invert(running, *arguments, **options)))


def until_progress(call: Any) -> pb.ClipProgress:
    for answer in call:
        if answer.HasField("progress"):
            progress: pb.ClipProgress = answer.progress
            return progress
    raise AssertionError("no progress")


def places(engine: Engine) -> int:
    return len(engine.background._places)


@pytest.fixture(autouse=True)
def leave_no_clip(engine: Engine) -> Iterator[None]:
    yield
    wait_until(lambda: not places(engine))
    wait_until(lambda: engine.background._running is None)


def test_a_clip_comes_back_as_the_offline_method_finds_it(running: Running, engine: Engine, model_folder: Path) -> None:
    answers = parted(invert(running, shades(5), "consecutive:steps=3", edits=[SMILE], output=RAW))
    generator, encoder = load_generator(model_folder).eval(), load_encoder(model_folder).eval()
    generator.autocast_dtype = encoder.autocast_dtype = engine.clips._networks.generator.autocast_dtype
    networks = Networks(generator.requires_grad_(False), encoder.requires_grad_(False))
    images = torch.stack([torch.full((3, RESOLUTION, RESOLUTION), float(60 + 20 * n)) for n in range(5)])
    with pausing(lambda: None, engine.options.clip_rows):
        (offline,) = invert_clips(networks, [images / 127.5 - 1], parse_method("consecutive:steps=3")).clips
    frames = answers["frame"]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    for frame, code in zip(frames, offline.latents.numpy(), strict=True):
        assert (frame.latents.layers, frame.latents.dim) == (LAYERS, DIM)
        assert frame.latents.data == code.tobytes()
        assert pixels(frame.reconstruction).shape == (RESOLUTION, RESOLUTION, 3)
        assert frame.edited.data != frame.reconstruction.data
        assert frame.quality.psnr_db > 0
    (done,) = answers["done"]
    assert (done.frames, done.method, done.steps) == (5, "consecutive:steps=3", 3)
    assert done.passes_per_frame == 6.0
    assert done.seconds > 0
    assert done.model_digest == running.stub.ListModels(pb.ListModelsRequest()).models[0].digest


def test_progress_is_told_to_the_last_step(running: Running) -> None:
    before = running.value("legato_clip_inversions_total", outcome="completed")
    steps = running.value("legato_clip_steps_total")
    answers = parted(invert(running, shades(3), "consecutive:steps=25"))
    told = answers["progress"]
    assert [progress.step for progress in told] == sorted(progress.step for progress in told)
    assert (told[-1].step, told[-1].steps, told[-1].seconds_left) == (25, 25, 0.0) or told[-1].seconds_left == 1.0
    assert told[-1].step == told[-1].steps == 25
    assert told[-1].seconds > 0
    assert running.value("legato_clip_inversions_total", outcome="completed") == before + 1
    assert running.value("legato_clip_steps_total") == steps + 25


@pytest.mark.parametrize("method", ["encoder", "w:steps=1", "w_plus:steps=1", "in_domain:steps=1", ""])
def test_methods_and_outputs_are_as_asked_for(running: Running, method: str) -> None:
    output = pb.OutputOptions(skip_reconstruction=True, format=pb.IMAGE_FORMAT_PNG)
    frames = shades(1 if method else 2)
    text = method or "consecutive:steps=1"
    answers = parted(invert(running, frames, text, edits=[SMILE], output=output))
    assert len(answers["frame"]) == len(frames)
    for frame in answers["frame"]:
        assert not frame.HasField("reconstruction")
        assert not frame.HasField("latents")
        assert frame.edited.format == pb.IMAGE_FORMAT_PNG
        assert frame.quality.psnr_db > 0


def test_without_edits_there_is_no_edited_image(running: Running) -> None:
    for frame in parted(invert(running, shades(2), "encoder"))["frame"]:
        assert not frame.HasField("edited")


def test_a_canceled_call_ends_the_work_and_gives_its_place_back(running: Running, engine: Engine) -> None:
    before = running.value("legato_clip_inversions_total", outcome="canceled")
    call = invert(running, shades(4), ENDLESS)
    assert until_progress(call).steps == 1000
    assert places(engine) == 1
    call.cancel()
    wait_until(lambda: not places(engine))
    wait_until(lambda: engine.background._running is None)
    wait_until(lambda: running.value("legato_clip_inversions_total", outcome="canceled") == before + 1)
    assert parted(invert(running, shades(2), "encoder"))["done"]


def test_a_deadline_ends_the_work_as_well(running: Running, engine: Engine) -> None:
    call = running.stub.InvertClip(requests(shades(3), ENDLESS), timeout=1.0)
    assert refusal(lambda: list(call)).code == "DEADLINE_EXCEEDED"
    wait_until(lambda: not places(engine))


def test_a_stream_goes_on_while_a_clip_is_worked_on(running: Running, engine: Engine) -> None:
    """All its frames are answered, in order and with the same images as without the clip, before the clip is done."""
    output = pb.OutputOptions(format=pb.IMAGE_FORMAT_RAW_RGB8)
    frames = shades(5)

    def answers() -> list[pb.FrameResult]:
        found = []
        with running.wire().open(output=output) as wire:
            for seq, frame in enumerate(frames, 1):
                wire.send(frame=pb.FrameInput(seq=seq, image=frame))
                found.append(wire.result())
            wire.send(close=pb.Close())
            wire.rest()
        return found

    alone = answers()
    call = invert(running, shades(6), ENDLESS)
    before = until_progress(call).step
    beside = answers()
    assert engine.background._running is not None
    assert until_progress(call).step > before
    call.cancel()
    assert [answer.seq for answer in beside] == [1, 2, 3, 4, 5]
    assert [a.reconstruction.data for a in beside] == [a.reconstruction.data for a in alone]
    health = engine.heartbeat
    wait_until(lambda: engine.heartbeat > health)


def test_clips_wait_in_line_and_are_told_where(running: Running, engine: Engine) -> None:
    capacity = engine.options.clips
    before = running.value("legato_clip_inversions_total", outcome="refused")
    first = invert(running, shades(2), ENDLESS)
    until_progress(first)
    waiting = []
    for ahead in range(1, capacity):
        waiting.append(invert(running, shades(2), "encoder"))
        assert next(waiting[-1]).queued.ahead == ahead
    full = refused(running, shades(2))
    assert (full.code, full.reason) == ("RESOURCE_EXHAUSTED", "CLIPS_FULL")
    assert full.retry_seconds >= 1.0
    assert f"all {capacity} places" in full.message
    assert running.value("legato_clip_inversions_total", outcome="refused") == before + 1
    first.cancel()
    for call in waiting:
        assert parted(call)["done"]


def test_a_place_is_taken_before_the_first_frame_is_sent(running: Running, engine: Engine) -> None:
    go_on = threading.Event()

    def slowly() -> Iterator[pb.InvertClipRequest]:
        made = requests(shades(2), "encoder")
        yield next(made)
        go_on.wait(TIMEOUT_SECONDS)
        yield from made

    slow = [running.stub.InvertClip(slowly(), timeout=TIMEOUT_SECONDS) for _ in range(engine.options.clips)]
    wait_until(lambda: places(engine) == engine.options.clips)
    assert refused(running, shades(2)).reason == "CLIPS_FULL"
    go_on.set()
    for call in slow:
        assert parted(call)["done"]


REFUSALS: dict[str, tuple[list[pb.Image], str, dict[str, Any], str, str, str]] = {
    "method": (shades(2), "magic", {}, "UNKNOWN_METHOD", "options.method", "no method is named 'magic'; there are"),
    "option": (shades(2), "consecutive:speed=9", {}, "METHOD_OPTIONS", "options.method", "has no option 'speed=9'"),
    "steps": (shades(2), "w:steps=1001", {}, "INVALID_INPUT", "options.method", "at most 1000 steps on this server"),
    "one frame": (shades(1), "consecutive", {}, "INVALID_INPUT", "", "consecutive images are at least 2"),
    "no frame": ([], "encoder", {}, "INVALID_INPUT", "frames", "at least one frame; got none"),
    "edit": (
        shades(2),
        "encoder",
        {"edits": [pb.Edit(direction="nose")]},
        "UNKNOWN_DIRECTION",
        "edits[0].direction",
        "",
    ),
    "bad image": (
        [*shades(2), pb.Image(format=pb.IMAGE_FORMAT_PNG, data=b"text")],
        "consecutive",
        {},
        "INVALID_IMAGE",
        "frames[2].data",
        "frame 2: image.data is not a PNG image",
    ),
    "no format": ([pb.Image()], "encoder", {}, "UNKNOWN_FORMAT", "frames[0].format", "frame 0: image.format is one of"),
    "mixed sizes": (
        [picture(64), picture(80)],
        "consecutive",
        {},
        "MIXED_SIZES",
        "frames[1]",
        "the first is 64x64, frame 1 is 80x80",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_clip_that_cannot_be_is_refused_by_field(running: Running, name: str) -> None:
    frames, method, options, reason, field, message = REFUSALS[name]
    told = refused(running, frames, method, **options)
    assert (told.code, told.reason, told.field, told.domain) == ("INVALID_ARGUMENT", reason, field, "legato")
    assert message in told.message


def test_unordered_photos_may_be_of_any_size(running: Running) -> None:
    photos = [picture(64), picture(80), picture(33)]
    assert len(parted(invert(running, photos, "consecutive:ordered=false,steps=1"))["frame"]) == 3
    assert len(parted(invert(running, photos, "encoder"))["frame"]) == 3


def test_a_size_is_that_of_the_file_not_of_what_it_is_decoded_to(running: Running) -> None:
    def jpeg(side: int) -> pb.Image:
        data = encode(np.full((side, side, 3), 90, np.uint8), Encoding(ImageFormat.JPEG))
        return pb.Image(format=pb.IMAGE_FORMAT_JPEG, data=data)

    assert refused(running, [jpeg(512), jpeg(256)]).reason == "MIXED_SIZES"  # decoders scale both to 128
    assert len(parted(invert(running, [jpeg(512), jpeg(512)], "consecutive:steps=1"))["frame"]) == 2


def test_the_order_of_messages_is_kept(running: Running) -> None:
    frame, options = pb.InvertClipRequest(frame=picture()), pb.InvertClipRequest(options=pb.ClipOptions())
    for messages, told in (
        ([frame], "the first message of a clip is its options; got frame"),
        ([], "its options; got none"),
        ([pb.InvertClipRequest()], "got an empty message"),
        ([options, frame, options], "come its frames alone; got options"),
    ):
        refused_as = refusal(lambda: list(running.stub.InvertClip(iter(messages), timeout=TIMEOUT_SECONDS)))  # noqa: B023
        assert refused_as.code == "FAILED_PRECONDITION"
        assert told in refused_as.message
    other = refusal(lambda: list(invert(running, shades(2), model="x")))
    assert (other.code, other.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")


def test_limits_are_the_servers_own(serve: Serve) -> None:
    with serve(max_clip_frames=2, max_clip_steps=5, max_message_bytes=16_000) as running:
        small = [picture(RESOLUTION)] * 2
        assert parted(invert(running, small, "w:steps=5"))["done"]
        long = refused(running, [*small, picture()], "encoder")
        assert (long.reason, long.field) == ("CLIP_TOO_LONG", "frames[2]")
        assert "at most 2 frames on this server" in long.message
        assert "at most 5 steps" in refused(running, small, "w:steps=6").message
        large = refused(running, [picture(), picture(80)], "encoder")
        assert (large.reason, large.field) == ("IMAGE_TOO_LARGE", "frames[1].data")


def test_a_client_that_stops_sending_loses_its_place(
    running: Running, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip, "MESSAGE_SECONDS", 0.2)
    go_on = threading.Event()

    def silent() -> Iterator[pb.InvertClipRequest]:
        yield next(requests([], "encoder"))
        go_on.wait(TIMEOUT_SECONDS)

    told = refusal(lambda: list(running.stub.InvertClip(silent(), timeout=TIMEOUT_SECONDS)))
    go_on.set()
    assert (told.code, told.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_MISSED")
    assert "send its frames without a break" in told.message


def test_a_stop_waits_for_a_clip_that_can_still_be_done(serve: Serve, hold: Hold) -> None:
    server = Stopping(serve, drain_seconds=30.0)
    with hold():
        call = invert(server.running, shades(2), "consecutive:steps=2")
        assert next(call).queued.ahead == 0
        server.begin()
        wait_until(lambda: refused(server.running, shades(2)).reason == "SHUTTING_DOWN")
    assert parted(call)["done"]
    server.join()


def test_a_stop_ends_clips_that_take_longer(serve: Serve) -> None:
    server = Stopping(serve, drain_seconds=0.2)
    call = invert(server.running, shades(3), ENDLESS)
    until_progress(call)
    waiting = invert(server.running, shades(3), ENDLESS)
    next(waiting)
    server.begin()
    for each in (call, waiting):
        told = refusal(lambda: list(each))  # noqa: B023
        assert (told.code, told.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")
        assert "before this clip was done" in told.message
    server.join()
    assert server.running.value("legato_clip_inversions_total", outcome="shutdown") == 2


def test_an_error_that_nobody_meant_tells_an_id_and_nothing_else(
    running: Running, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("the secret path /etc/legato")

    with monkeypatch.context() as patch:
        patch.setattr(engine.clips, "invert", broken)
        told = refused(running, shades(2))
    assert (told.code, told.reason) == ("INTERNAL", "INTERNAL")
    assert "secret" not in told.message
    assert parted(invert(running, shades(2), "encoder"))["done"]
