"""A stream on the wire: order, policies, credits, updates, and frames that fail without ending it."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import cv2
import numpy as np
import pytest

from legato.images import Pixels
from legato.options import Encoding, ImageFormat
from legato.rpc import codec
from legato_pb import inversion_pb2 as pb
from tests.rpc.model import DIM, LAYERS
from tests.rpc.running import Running, wait_until
from tests.rpc.wire import RESOLUTION, kinds, picture, pixels, refusal

Hold = Callable[[], AbstractContextManager[None]]
SMILE = pb.Edit(direction="smile", strength=1.5)


def test_a_clip_comes_back_frame_by_frame(running: Running) -> None:
    with running.wire().open(edits=[SMILE], output=pb.OutputOptions(latents=True)) as wire:
        assert wire.opened.model.resolution == RESOLUTION
        assert wire.opened.credits == 4
        assert wire.opened.limits.max_edit_strength == 10
        for seq in range(1, 4):
            wire.frame(seq, capture_time=100.0 + seq)
        results = [wire.result() for _ in range(3)]
        wire.send(close=pb.Close())
        (closed,) = wire.rest()
    assert [result.seq for result in results] == [1, 2, 3]
    assert [result.capture_time for result in results] == [101.0, 102.0, 103.0]
    assert [result.state_version for result in results] == [1, 2, 3]
    for result in results:
        assert pixels(result.reconstruction).shape == pixels(result.edited).shape == (RESOLUTION, RESOLUTION, 3)
        assert (result.latents.layers, result.latents.dim) == (LAYERS, DIM)
        assert np.isfinite(np.frombuffer(result.latents.data, "<f4")).all()
        stages = {timing.stage: timing.seconds for timing in result.timings}
        assert stages.keys() >= {"decode", "queue", "encode", "synthesize", "encode_image"}
        assert sum(stages.values()) == pytest.approx(result.server_seconds), "no time is unaccounted for"
    assert closed.closed.stats.frames_completed == closed.closed.stats.frames_received == 3
    assert closed.closed.stats.mean_psnr_db == pytest.approx(np.mean([result.quality.psnr_db for result in results]))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "RAW_RGB8"])
def test_images_come_in_the_format_asked_for(running: Running, format: str) -> None:
    value = pb.ImageFormat.Value(f"IMAGE_FORMAT_{format}")
    with running.wire().open(output=pb.OutputOptions(format=value)) as wire:
        wire.frame(1)
        result = wire.result()
    assert result.reconstruction.format == value
    data = codec.decode(
        ImageFormat[format],
        result.reconstruction.data,
        width=RESOLUTION,
        height=RESOLUTION,
        max_bytes=1 << 20,
        max_pixels=1 << 20,
    )
    assert data.shape == (RESOLUTION, RESOLUTION, 3)
    assert not result.HasField("edited"), "no edit was asked for"


def test_what_is_not_asked_for_is_not_sent(running: Running) -> None:
    output = pb.OutputOptions(skip_reconstruction=True)
    with running.wire().open(edits=[SMILE], output=output) as wire:
        wire.frame(1)
        result = wire.result()
        assert not result.HasField("reconstruction")
        assert result.HasField("edited")
        assert not result.HasField("latents")
        wire.send(close=pb.Close())
        assert wire.rest()[-1].closed.stats.frames_completed == 1


def test_updates_and_a_frame_s_own_edits_change_what_is_asked(running: Running) -> None:
    with running.wire().open() as wire:
        wire.send(update=pb.Update(from_seq=3, edits=pb.EditList(edits=[SMILE])))
        for seq in (1, 2, 3):
            wire.frame(seq, edits=pb.EditList(edits=[SMILE]) if seq == 1 else None)
        results = [wire.result() for _ in range(3)]
        wire.frame(4, edits=pb.EditList())
        results.append(wire.result())
    assert [result.HasField("edited") for result in results] == [True, False, True, False]


def test_steps_and_own_flow_are_used(running: Running) -> None:
    still = pb.Flow(width=RESOLUTION, height=RESOLUTION, data=bytes(8 * RESOLUTION**2))
    with running.wire().open(budget=pb.Budget(max_steps=2)) as wire:
        wire.frame(1)
        wire.frame(2, flow=still)
        assert [wire.result().steps for _ in range(2)] == [2, 2]


def test_a_refused_update_is_a_warning_and_changes_nothing(running: Running) -> None:
    with running.wire().open(edits=[SMILE]) as wire:
        wire.send(update=pb.Update(edits=pb.EditList(edits=[pb.Edit(direction="nose", strength=1)])))
        warning = wire.next().warning
        assert warning.reason == "UNKNOWN_DIRECTION"
        assert "known: smile, yaw" in warning.message
        wire.send()
        assert wire.next().warning.reason == "UNKNOWN_MESSAGE"
        wire.frame(1)
        assert wire.result().HasField("edited")


def wrong_image(format: int, data: bytes, width: int = 0, height: int = 0) -> pb.Image:
    """An image message of any numbers."""
    return pb.Image(format=format, data=data, width=width, height=height)  # type: ignore[arg-type]


JPEG = codec.encode(np.full((40, 40, 3), 90, np.uint8), Encoding())
NAN_EDIT = pb.EditList(edits=[pb.Edit(direction="smile", strength=math.nan)])
BAD_FRAMES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no image": ({"image": pb.Image()}, "UNKNOWN_FORMAT", "one of RAW_RGB8, JPEG, PNG; got nothing"),
    "unknown format": ({"image": wrong_image(77, b"x")}, "UNKNOWN_FORMAT", "got 77"),
    "not an image": ({"image": wrong_image(2, b"text")}, "INVALID_IMAGE", "not a JPEG image"),
    "truncated": ({"image": wrong_image(2, JPEG[:-99])}, "INVALID_IMAGE", "cut off"),
    "0x0": ({"image": wrong_image(1, b"x")}, "INVALID_IMAGE", "at least 16x16 pixels; got 0x0"),
    "1x1": ({"image": wrong_image(1, b"xyz", width=1, height=1)}, "INVALID_IMAGE", "got 1x1"),
    "8000x8000": ({"image": wrong_image(1, b"x", width=8000, height=8000)}, "IMAGE_TOO_LARGE", "8000x8000"),
    "NaN strength": (
        {"edits": NAN_EDIT},
        "INVALID_EDIT",
        "within +-10 (standard deviations of the attribute); got nan",
    ),
    "huge strength": (
        {"edits": pb.EditList(edits=[pb.Edit(direction="yaw", strength=1e9)])},
        "INVALID_EDIT",
        "got 1000000000.0",
    ),
    "no direction": ({"edits": pb.EditList(edits=[pb.Edit(strength=1)])}, "INVALID_EDIT", "names a direction"),
    "unknown direction": ({"edits": pb.EditList(edits=[pb.Edit(direction="x")])}, "UNKNOWN_DIRECTION", "smile, yaw"),
    "too many edits": ({"edits": pb.EditList(edits=[SMILE] * 17)}, "INVALID_EDIT", "at most 16 edits; got 17"),
    "small flow": ({"flow": pb.Flow(width=4, height=4, data=bytes(128))}, "INVALID_FLOW", "got 4x4 with 128 bytes"),
    "NaN flow": (
        {"flow": pb.Flow(width=64, height=64, data=struct.pack("<f", math.nan) * 8192)},
        "INVALID_FLOW",
        "got NaN",
    ),
    "NaN time": ({"capture_time": math.nan}, "INVALID_INPUT", "capture_time is finite"),
}


def test_a_bad_frame_fails_with_what_was_wanted_and_the_session_goes_on(running: Running) -> None:
    with running.wire().open() as wire, running.wire().open() as other:
        wire.frame(1)
        first = wire.result()
        for offset, (fields, reason, message) in enumerate(BAD_FRAMES.values()):
            wire.send(frame=pb.FrameInput(**{"seq": 2 + offset, "image": picture(), **fields}))
            failed = wire.failed()
            assert (failed.seq, failed.reason) == (2 + offset, reason)
            assert message in failed.message
            other.frame(1 + offset)
            assert other.result().state_version == 1 + offset, "another session never notices"
        wire.frame(100)
        assert wire.result().state_version == first.state_version + 1
        wire.send(close=pb.Close())
        stats = wire.rest()[-1].closed.stats
    assert (stats.frames_completed, stats.frames_failed) == (2, len(BAD_FRAMES))


@pytest.mark.parametrize("seq", [0, 1, 2])
def test_a_seq_that_does_not_rise_fails_and_the_session_goes_on(running: Running, seq: int) -> None:
    with running.wire().open() as wire:
        wire.frame(2)
        assert wire.result().seq == 2
        wire.frame(seq)
        failed = wire.failed()
        assert (failed.seq, failed.reason) == (seq, "SEQ_NOT_INCREASING")
        assert f"got {seq} after 2" in failed.message
        wire.frame(3)
        assert wire.result().seq == 3


def test_images_of_other_kinds_are_converted_and_fitted(running: Running) -> None:
    gray = cv2.imencode(".png", np.full((30, 90), 200, np.uint8))[1].tobytes()
    alpha = cv2.imencode(".png", np.full((200, 50, 4), 200, np.uint8))[1].tobytes()
    with running.wire().open() as wire:
        for seq, data in enumerate((gray, alpha), start=1):
            wire.frame(seq, pb.Image(format=pb.IMAGE_FORMAT_PNG, data=data))
            assert pixels(wire.result().reconstruction).shape == (RESOLUTION, RESOLUTION, 3)


def test_only_what_takes_long_is_decoded_on_another_thread(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    where: dict[int, str] = {}
    decode = codec.decode

    def watched(format: ImageFormat, data: bytes, *, width: int, **limits: int) -> Pixels:
        where[width] = threading.current_thread().name
        return decode(format, data, width=width, **limits)

    monkeypatch.setattr(codec, "decode", watched)
    with running.wire().open() as wire:
        for seq, side in enumerate((RESOLUTION, 128, 512), 1):
            wire.frame(seq, picture(side))
            wire.result()
    assert where[RESOLUTION] == where[128]
    assert where[512].startswith("legato-codec")
    assert not where[128].startswith("legato-codec")


def test_ordered_answers_all_that_has_credit_and_drops_the_rest_without_breaking(running: Running, hold: Hold) -> None:
    with running.wire().open() as wire:
        with hold():
            for seq in range(1, 9):
                wire.frame(seq)
            dropped = [wire.next().dropped for _ in range(4)]
        assert [(drop.seq, drop.reason) for drop in dropped] == [(s, pb.DROP_REASON_QUEUE_FULL) for s in (5, 6, 7, 8)]
        assert [wire.result().seq for _ in range(4)] == [1, 2, 3, 4]
        wire.frame(9)
        assert wire.result().seq == 9


def test_ordered_waits_while_the_engine_s_queue_is_full(running: Running, hold: Hold) -> None:
    assert running.server._models is not None
    (engine,) = running.server._models.engines
    with running.wire().open() as wire:
        with hold():
            request = pb.InvertRequest(image=picture())
            calls = [running.stub.Invert.future(request) for _ in range(6)]
            wait_until(lambda: engine.queue_depth == 6)
            full = refusal(running.stub.Invert, request)
            wire.frame(1)
        assert wire.result().seq == 1
    assert (full.code, full.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert full.retry_seconds > 0
    assert all(call.result().quality.psnr_db for call in calls)


def test_latest_answers_the_newest_and_tells_every_frame_that_it_passed_over(running: Running, hold: Hold) -> None:
    with running.wire().open(policy=pb.DELIVERY_POLICY_LATEST) as wire:
        with hold():
            for seq in range(1, 31):
                wire.frame(seq)
            messages = [wire.next() for _ in range(28)]
        wire.send(close=pb.Close())
        messages += wire.rest()
    stats = messages.pop().closed.stats
    answered = [message.result.seq for message in messages if message.HasField("result")]
    dropped = [message.dropped for message in messages if message.HasField("dropped")]
    assert {drop.reason for drop in dropped} == {pb.DROP_REASON_STALE}
    assert sorted([drop.seq for drop in dropped] + answered) == list(range(1, 31))
    assert answered[-1] == 30
    assert (stats.frames_completed, stats.frames_dropped) == (len(answered), len(dropped))


def test_no_more_answers_are_sent_than_the_client_takes(running: Running) -> None:
    with running.wire().open(credits=1) as wire:
        for seq in (1, 2, 3):
            wire.frame(seq)
        assert wire.result().seq == 1
        token = wire.opened.resume_token
        wait_until(lambda: state(running, token).stats.frames_completed >= 2)
        wire.send(update=pb.Update(edits=pb.EditList(edits=[pb.Edit(direction="nose")])))
        assert wire.next().WhichOneof("message") == "warning", "the second result is held back"
        wire.send(credit=pb.Credit(count=2))
        assert [wire.result().seq for _ in range(2)] == [2, 3]


def test_close_answers_what_is_in_flight_first(running: Running) -> None:
    with running.wire().open() as wire:
        for seq in (1, 2, 3):
            wire.frame(seq)
        wire.send(close=pb.Close())
        wire.frame(4)
        messages = wire.rest()
    assert kinds(messages)[-1] == "closed"
    assert [kind for kind in kinds(messages) if kind.startswith("result")] == ["result 1", "result 2", "result 3"]
    late = next(message.failed for message in messages if message.HasField("failed"))
    assert (late.seq, late.reason) == (4, "SESSION_CLOSING")
    assert running.server._store is not None
    assert len(running.server._store) == 0


def state(running: Running, token: str) -> pb.GetSessionResponse:
    return running.stub.GetSession(pb.GetSessionRequest(resume_token=token))
