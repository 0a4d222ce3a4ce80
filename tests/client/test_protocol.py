"""The stream's core without I/O: credits, order, delivery, resources, end. The server's side is played by hand."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato_client import (
    Answer,
    Budget,
    Cancelled,
    ConnectionLost,
    Dropped,
    Edit,
    Failed,
    FrameResult,
    InvalidImage,
    InvalidInput,
    MessageTooLarge,
    Outputs,
    ProtocolViolation,
    ServerError,
    ServerStopping,
    SessionClosed,
)
from legato_client.protocol import StreamProtocol
from legato_pb import inversion_pb2 as pb

PIXELS = np.zeros((4, 4, 3), np.uint8)


def opened(credits: int = 4, **limits: int) -> pb.StreamResponse:
    return pb.StreamResponse(opened=pb.Opened(session_id="s", credits=credits, limits=pb.Limits(**limits)))


def result(seq: int) -> pb.StreamResponse:
    return pb.StreamResponse(result=pb.FrameResult(seq=seq))


def dropped(seq: int) -> pb.StreamResponse:
    return pb.StreamResponse(dropped=pb.Dropped(seq=seq, reason=pb.DROP_REASON_QUEUE_FULL))


def closed() -> pb.StreamResponse:
    return pb.StreamResponse(closed=pb.Closed(stats=pb.SessionStats(frames_received=1)))


def begun(credits: int = 4, **options: Any) -> StreamProtocol:
    """A protocol whose `open` was sent and granted; its clock stands at the count of its readings."""
    ticks = count()
    protocol = StreamProtocol(clock=lambda: float(next(ticks)), **options)
    message = protocol.next_message()
    assert message is not None
    assert message.HasField("open")
    protocol.receive(opened(credits))
    return protocol


def send(protocol: StreamProtocol, seq: int | None = None) -> int:
    return protocol.send(protocol.pack(PIXELS), 0.0, seq)


def messages(protocol: StreamProtocol) -> list[tuple[str, int]]:
    """What would be written now: (kind, seq or count)."""
    found: list[tuple[str, int]] = []
    while protocol.has_message and (message := protocol.next_message()) is not None:
        kind = message.WhichOneof("message") or ""
        found.append((kind, message.frame.seq if kind == "frame" else message.credit.count))
    return found


def take_all(protocol: StreamProtocol) -> list[Answer]:
    found = []
    while protocol.can_take and not protocol.finished:
        found.append(protocol.take())
    return found


def test_open_says_what_was_asked_for() -> None:
    protocol = StreamProtocol(
        model="m",
        edits={"smile": 2.0},
        policy="latest",
        budget=Budget(max_steps=3, window_steps=2),
        outputs=Outputs(reconstruction=False, latents=True, format="png"),
        answers_ahead=8,
        resume_token="t",
        last_seq=7,
    )
    message = protocol.next_message()
    assert message is not None
    options = pb.SessionOptions(
        policy=pb.DELIVERY_POLICY_LATEST,
        edits=[pb.Edit(direction="smile", strength=2.0)],
        budget=pb.Budget(max_steps=3, window_steps=2),
        output=pb.OutputOptions(
            skip_reconstruction=True, latents=True, format=pb.IMAGE_FORMAT_PNG, jpeg_quality=Outputs().jpeg_quality
        ),
        credits=8,
    )
    assert message.open == pb.Open(model="m", options=options, resume_token="t", last_seq=7)


def test_nothing_is_sent_before_the_session_is_open() -> None:
    protocol = StreamProtocol()
    protocol.next_message()
    assert not protocol.can_send
    protocol.receive(opened())
    assert protocol.can_send


def test_ordered_waits_at_the_bound_until_an_answer_gives_room() -> None:
    protocol = begun(credits=2)
    send(protocol), send(protocol)
    assert not protocol.can_send
    protocol.receive(result(1))
    assert protocol.can_send


def test_a_credit_of_the_server_raises_the_bound() -> None:
    protocol = begun(credits=1)
    send(protocol)
    assert not protocol.can_send
    protocol.receive(pb.StreamResponse(credit=pb.Credit(count=1)))
    assert protocol.can_send


def test_in_flight_bounds_below_what_the_server_grants() -> None:
    protocol = begun(credits=8, in_flight=1)
    send(protocol)
    assert not protocol.can_send


def test_ordered_gives_a_drop_that_was_told_early_in_its_place() -> None:
    protocol = begun()
    send(protocol), send(protocol), send(protocol)
    protocol.receive(dropped(2))
    assert not protocol.can_take
    protocol.receive(result(1))
    protocol.receive(result(3))
    assert [answer.seq for answer in take_all(protocol)] == [1, 2, 3]


def test_latest_never_waits_and_tells_what_it_passed_over() -> None:
    protocol = begun(credits=1, policy="latest")
    for _ in range(4):
        assert protocol.can_send
        send(protocol)
    assert messages(protocol) == [("frame", 1)]
    assert take_all(protocol) == [Dropped(2, "stale", by="client"), Dropped(3, "stale", by="client")]
    protocol.receive(result(1))
    assert messages(protocol) == [("frame", 4)]


def test_answers_taken_are_granted_to_the_server_again() -> None:
    protocol = begun(answers_ahead=8)
    for seq in (1, 2):
        send(protocol)
        protocol.receive(result(seq))
    messages(protocol)
    protocol.take()
    assert messages(protocol) == []
    protocol.take()
    assert messages(protocol) == [("credit", 2)]


def test_a_frame_that_cannot_be_packed_fails_in_its_place() -> None:
    protocol = begun()
    send(protocol)
    assert protocol.fail(InvalidImage("no image")) == 2
    assert not protocol.can_take
    protocol.receive(result(1))
    first, second = take_all(protocol)
    assert isinstance(first, FrameResult)
    assert second == Failed(2, "INVALID_IMAGE", "no image")
    assert isinstance(second.error, InvalidImage)


def test_seq_only_rises() -> None:
    protocol = begun()
    assert send(protocol, 5) == 5
    for seq in (5, 4):
        with pytest.raises(ProtocolViolation, match=f"above 5; got {seq}"):
            send(protocol, seq)
    assert send(protocol) == 6


def test_an_update_holds_from_the_next_frame_even_past_a_parked_one() -> None:
    protocol = begun(credits=1, policy="latest")
    send(protocol), send(protocol)
    protocol.update({"edits": [Edit("smile", 1.0)]})
    assert protocol.next_message() is not None  # frame 1; frame 2 is parked
    message = protocol.next_message()
    assert message is not None
    assert message.update.from_seq == 3
    assert message.update.edits.edits[0].direction == "smile"
    assert not message.update.HasField("budget")


def test_an_empty_update_of_the_edits_clears_them() -> None:
    protocol = begun()
    protocol.update({"edits": ()})
    message = protocol.next_message()
    assert message is not None
    assert message.update.HasField("edits")


def test_limits_of_the_server_are_kept_before_anything_is_sent() -> None:
    protocol = StreamProtocol()
    protocol.receive(opened(max_pixels=15, max_message_bytes=5000))
    with pytest.raises(InvalidImage, match="at most 15 pixels here; got 4x4"):
        protocol.pack(PIXELS)
    with pytest.raises(MessageTooLarge, match="at most 5000 bytes here"):
        protocol.pack(b"\xff\xd8" + bytes(5000))


def test_close_lets_the_answers_in_flight_pass_and_gives_the_counters() -> None:
    protocol = begun()
    send(protocol), send(protocol)
    protocol.close()
    assert messages(protocol) == [("frame", 1), ("frame", 2), ("credit", 2), ("close", 0)]
    protocol.receive(result(1))
    protocol.receive(closed())
    protocol.end(None)
    assert protocol.final_stats().frames_received == 1
    assert [type(protocol.take()) for _ in range(2)] == [FrameResult, Dropped]
    with pytest.raises(SessionClosed):
        protocol.take()
    with pytest.raises(SessionClosed):
        send(protocol)


def test_an_end_without_closed_is_an_error_after_the_answers_that_came() -> None:
    protocol = begun()
    send(protocol), send(protocol)
    protocol.receive(dropped(2))
    protocol.end(None)
    assert protocol.take().seq == 2
    with pytest.raises(ConnectionLost, match="before the session was closed"):
        protocol.take()
    with pytest.raises(ConnectionLost):
        send(protocol)


def test_a_server_that_said_it_would_stop_did_stop() -> None:
    protocol = begun()
    protocol.receive(pb.StreamResponse(go_away=pb.GoAway(deadline_seconds=5, reason="SHUTTING_DOWN")))
    assert protocol.notices[0].deadline_seconds == 5
    protocol.end(ConnectionLost("cut"))
    with pytest.raises(ServerStopping, match="SHUTTING_DOWN"):
        protocol.take()


def test_the_first_end_counts() -> None:
    protocol = begun()
    protocol.end(Cancelled("by me"))
    protocol.end(ConnectionLost("later"))
    with pytest.raises(Cancelled, match="by me"):
        protocol.take()
    assert protocol.told


def test_discarded_answers_are_not_given_out_and_still_granted_again() -> None:
    protocol = begun(answers_ahead=4, in_flight=2)
    send(protocol), send(protocol)
    protocol.receive(result(1))
    protocol.discard({1, 2})
    protocol.receive(result(2))
    assert not protocol.can_take
    assert [kind for kind, _ in messages(protocol)] == ["frame", "frame", "credit", "credit"]
    send(protocol)
    protocol.receive(result(3))
    assert protocol.take().seq == 3


def test_age_runs_from_the_hand_over_to_the_answer() -> None:
    protocol = begun()
    now = protocol._clock()
    protocol.send(protocol.pack(PIXELS), now - 10.0)
    protocol.receive(result(1))
    answer = protocol.take()
    assert isinstance(answer, FrameResult)
    assert 10.0 < answer.age_seconds < 20.0


def test_an_answer_for_no_frame_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    protocol = begun()
    protocol.receive(result(9))
    assert not protocol.can_take
    assert "frame 9, which waits for no answer" in caplog.text


def test_an_image_format_from_the_future_is_an_error_that_says_so() -> None:
    protocol = begun()
    send(protocol)
    image = pb.Image(data=b"x")
    with pytest.raises(ServerError, match="unknown format 0"):
        protocol.receive(pb.StreamResponse(result=pb.FrameResult(seq=1, reconstruction=image)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "newest"}, "ordered, latest, lossless; got 'newest'"),
        ({"frames_as": "bmp"}, "auto, raw, jpeg; got 'bmp'"),
        ({"answers_ahead": 1}, "answers_ahead >= 2"),
        ({"in_flight": -1}, "in_flight >= 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        StreamProtocol(**options)


class Server:
    """Answers in any order, drops some frames, and holds answers back while it has no credit for them."""

    def __init__(self, answer_credit: int) -> None:
        self.frames: list[int] = []
        self.answer_credit = answer_credit
        self.most = 0

    @property
    def can_answer(self) -> bool:
        return bool(self.frames and self.answer_credit)

    def read(self, protocol: StreamProtocol) -> None:
        for kind, number in messages(protocol):
            if kind == "frame":
                self.frames.append(number)
            elif kind == "credit":
                self.answer_credit += number
        self.most = max(self.most, len(self.frames))

    def answer(self, index: int, drop: bool) -> pb.StreamResponse:
        self.answer_credit -= 1
        seq = self.frames.pop(index)
        return dropped(seq) if drop else result(seq)


@given(data=st.data(), policy=st.sampled_from(["ordered", "latest"]), credits=st.integers(1, 5))
def test_every_frame_gets_one_answer_whatever_the_interleaving(data: st.DataObject, policy: Any, credits: int) -> None:
    protocol, server = begun(credits=credits, policy=policy, answers_ahead=4), Server(answer_credit=4)
    sent: list[int] = []
    taken: list[int] = []
    while len(taken) < 12:
        able = {
            "send": len(sent) < 12 and protocol.can_send,
            "answer": server.can_answer,
            "take": protocol.can_take,
        }
        assert any(able.values()), "neither side can go on"
        match data.draw(st.sampled_from([act for act, possible in able.items() if possible])):
            case "send":
                sent.append(send(protocol))
            case "answer":
                index = data.draw(st.integers(0, len(server.frames) - 1))
                protocol.receive(server.answer(index, drop=data.draw(st.booleans())))
            case "take":
                taken.append(protocol.take().seq)
        server.read(protocol)
    assert sorted(taken) == sent == list(range(1, 13))
    assert server.most <= min(credits, 2)  # half of answers_ahead
    if policy == "ordered":
        assert taken == sent
