"""Everything that can be wrong with a frame, through the real client and a real server.

Each case: the frame fails alone, the message says what was wanted, the session goes on. What the client itself refuses
is sent past it too (`unchecked`), so that the server's own check is seen.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from legato_client import (
    Client,
    Edit,
    Failed,
    Frame,
    FrameResult,
    InvalidEdit,
    InvalidImage,
    InvalidInput,
    LegatoError,
    MessageTooLarge,
    NotFound,
    Outputs,
    Overloaded,
    Picture,
    ProtocolViolation,
    Session,
    images,
    png,
    wire,
)
from legato_client.protocol import StreamProtocol
from legato_pb import inversion_pb2 as pb
from tests.client.servers import open_soon

Clip = list[NDArray[np.uint8]]
Violation = Callable[[StreamProtocol], None]


def png_of(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds no pixel of it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png.SIGNATURE + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + png.write(TINY)[33:]


TINY = np.zeros((1, 1, 3), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
JPEG = images.jpeg(NOISE)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (b"\xff\xd8\xff\xe0 and then no JPEG at all", "cut off"),
        (JPEG[: len(JPEG) // 2], "JPEG"),
        (JPEG[:200], "JPEG"),
        (png.write(NOISE)[:-200], "PNG"),
        (png.write(NOISE).replace(b"IDAT", b"IDAU"), "PNG"),
        (png_of(0, 0), "at least 16x16 pixels; got 0x0"),
        (png.write(TINY), "at least 16x16 pixels; got 1x1"),
        (TINY, "at least 16x16 pixels; got 1x1"),
        (png_of(8000, 8000), "8000x8000"),
    ],
    ids=["not-a-jpeg", "half-a-jpeg", "jpeg-header", "cut-png", "damaged-png", "0x0", "1x1", "1x1-array", "8000x8000"],
)
def test_a_bad_image_fails_alone_and_says_what_was_wanted(
    client: Client, clip: Clip, picture: Picture, message: str
) -> None:
    with client.open() as session:
        before, bad, after = session.stream([clip[0], picture, clip[1]])
        stats = session.close()
    assert isinstance(before, FrameResult)
    assert isinstance(after, FrameResult)
    assert isinstance(bad, Failed)
    assert isinstance(bad.error, InvalidImage)
    assert message in bad.message
    assert (stats.frames_received, stats.frames_completed, stats.frames_failed) == (3, 2, 1)
    with pytest.raises(InvalidImage, match=message):
        client.invert(picture)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (b"GIF89a, which is no format here", "JPEG or PNG file; got 31 bytes that begin with 47 49 46"),
        (b"", "got 0 bytes that begin with nothing"),
        (np.zeros((0, 0, 3), np.uint8), r"H, W >= 1; got \[0, 0, 3\]"),
        (np.zeros((64, 64, 3), np.float32), "got float32"),
        (np.broadcast_to(TINY, (8000, 8000, 3)), "at most 16777216 pixels here; got 8000x8000"),
    ],
    ids=["gif", "nothing", "0x0", "float", "8000x8000"],
)
def test_what_the_client_refuses_never_leaves_it(
    client: Client, clip: Clip, picture: NDArray[np.uint8], message: str
) -> None:
    with client.open() as session:
        with pytest.raises(InvalidImage, match=message):
            session.send(picture)
        bad, good = session.stream([picture, clip[0]])
        stats = session.close()
    assert isinstance(bad, Failed)
    assert isinstance(bad.error, InvalidImage)
    assert isinstance(good, FrameResult)
    assert stats.frames_received == 1


def latents_of(client: Client, picture: Picture) -> NDArray[np.float32]:
    found = client.invert(picture, outputs=Outputs(latents=True)).latents
    assert found is not None
    return found


def test_gray_and_alpha_are_converted(client: Client) -> None:
    gray = NOISE[..., :1]
    done, gray_file = cv2.imencode(".png", gray)
    assert done
    wanted = latents_of(client, np.repeat(gray, 3, axis=2))
    assert np.array_equal(latents_of(client, gray_file.tobytes()), wanted)
    assert np.array_equal(latents_of(client, gray), wanted)
    alpha = np.concatenate([NOISE, NOISE[..., :1]], axis=2)
    done, alpha_file = cv2.imencode(".png", alpha[..., [2, 1, 0, 3]])
    assert done
    wanted = latents_of(client, NOISE)
    assert np.array_equal(latents_of(client, alpha_file.tobytes()), wanted)
    assert np.array_equal(latents_of(client, alpha), wanted)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 32)])
def test_another_aspect_is_letterboxed(client: Client, height: int, width: int) -> None:
    """The rule: scaled to fit, centered, black bars."""
    inner = NOISE[:height, :width]
    boxed = np.zeros_like(NOISE)
    top, left = (64 - height) // 2, (64 - width) // 2
    boxed[top : top + height, left : left + width] = inner
    assert np.array_equal(latents_of(client, inner), latents_of(client, boxed))


def test_a_damaged_frame_never_reaches_the_neighbors(client: Client, clip: Clip) -> None:
    outputs = Outputs(latents=True)
    with client.open(outputs=outputs, in_flight=1) as alone:
        wanted = [answer.latents for answer in alone.stream(clip) if isinstance(answer, FrameResult)]
    with client.open(outputs=outputs, in_flight=1) as neighbor, client.open() as troubled:
        seen = []
        for answer in neighbor.stream(clip):
            assert isinstance(answer, FrameResult)
            seen.append(answer.latents)
            (bad,) = troubled.stream([JPEG[:200]])
            assert isinstance(bad, Failed)
    for one, other in zip(wanted, seen, strict=True):
        assert one is not None
        assert other is not None
        assert np.array_equal(one, other)


def test_unknown_models_are_refused_by_name(client: Client, clip: Clip) -> None:
    for call in (
        lambda: client.open(model="heads-9000"),
        lambda: client.invert(clip[0], model="heads-9000"),
        lambda: client.synthesize(seed=1, model="heads-9000"),
        lambda: client.list_directions("heads-9000"),
    ):
        with pytest.raises(NotFound, match="unknown model 'heads-9000'; this server has 'tiny'"):
            call()


def test_unknown_directions_are_refused_with_those_that_are_known(client: Client, clip: Clip) -> None:
    wanted = "unknown direction 'charm' of model 'tiny'; known: smile, yaw"
    with pytest.raises(InvalidEdit, match=wanted):
        client.open(edits={"charm": 1.0})
    with pytest.raises(InvalidEdit, match=wanted):
        client.invert(clip[0], edits={"charm": 1.0})
    with client.open() as session:
        bad, good = session.stream([Frame(clip[0], edits=(Edit("charm", 1.0),)), clip[0]])
        assert isinstance(bad, Failed)
        assert isinstance(bad.error, InvalidEdit)
        assert isinstance(good, FrameResult)
        session.update(edits={"charm": 1.0})
        assert isinstance(next(session.stream([clip[0]])), FrameResult)
        assert wanted in session.notices[0].message


def test_policies_that_this_server_does_not_keep_are_refused(client: Client) -> None:
    with pytest.raises(InvalidInput, match="choose ORDERED or LATEST"):
        client.open(policy="lossless")
    with pytest.raises(InvalidInput, match="one of ordered, latest, lossless; got 'newest'"):
        client.open(policy="newest")  # type: ignore[arg-type]


def unchecked(direction: str, strength: float) -> Edit:
    edit = Edit(direction, 0.0)
    object.__setattr__(edit, "strength", strength)
    return edit


@pytest.mark.parametrize("strength", [math.nan, math.inf, -1e9, 10.5])
def test_strengths_that_are_no_number_or_huge_are_refused(client: Client, clip: Clip, strength: float) -> None:
    edit = unchecked("smile", strength)
    wanted = r"'smile' is a finite number within \+-10"
    with pytest.raises(InvalidEdit, match=wanted):
        client.open(edits=[edit])
    with pytest.raises(InvalidEdit, match=wanted):
        client.invert(clip[0], edits=[edit])
    with client.open() as session:
        bad, good = session.stream([Frame(clip[0], edits=(edit,)), clip[0]])
    assert isinstance(bad, Failed)
    assert isinstance(bad.error, InvalidEdit)
    assert isinstance(good, FrameResult)


def test_a_budget_over_the_limit_is_refused(client: Client, clip: Clip) -> None:
    with pytest.raises(InvalidInput, match="at most 16 on this server; got 17"):
        client.invert(clip[0], steps=17)


def test_a_message_over_the_limit_is_refused_before_it_leaves(client: Client, clip: Clip) -> None:
    large = np.zeros((300, 300, 3), np.uint8)
    with client.open(frames_as="raw") as session:
        with pytest.raises(MessageTooLarge, match="at most 200000 bytes here; this raw image alone has 270000"):
            session.send(large)
        bad, good = session.stream([large, clip[0]])
        assert isinstance(bad, Failed)
        assert isinstance(bad.error, MessageTooLarge)
        assert isinstance(good, FrameResult)


def unlimited(session: Session) -> Session:
    """The session, blind to what its server takes."""
    opened = session._protocol.opened
    assert opened is not None
    object.__setattr__(opened.limits, "max_message_bytes", 0)
    return session


def test_a_message_over_the_limit_fails_alone_and_a_monstrous_one_ends_its_stream_only(
    client: Client, clip: Clip
) -> None:
    large = png.SIGNATURE + bytes(300_000)
    monstrous = png.SIGNATURE + bytes(500_000)
    with client.open() as neighbor, client.open() as session:
        bad, good = unlimited(session).stream([large, clip[0]])
        assert isinstance(bad, Failed)
        assert "at most 200000 bytes; got 300008" in bad.message
        assert isinstance(good, FrameResult)
        with pytest.raises(MessageTooLarge, match="larger than max"):
            list(session.stream([monstrous, clip[0]]))
        assert len(list(neighbor.stream(clip[:3]))) == 3


def test_seq_repeated_or_going_back_is_refused_on_both_sides(client: Client, clip: Clip) -> None:
    with client.open() as session:
        session.send(clip[0], seq=5)
        assert isinstance(session.recv(timeout=60), FrameResult)
        for seq in (5, 4):
            with pytest.raises(ProtocolViolation, match=f"above 5; got {seq}"):
                session.send(clip[0], seq=seq)
            session._protocol._last_seq = 0  # past the client's own check
            session.send(clip[0], seq=seq)
            answer = session.recv(timeout=60)
            assert isinstance(answer, Failed)
            assert isinstance(answer.error, ProtocolViolation)
            assert f"got {seq} after 5" in answer.message
            session._protocol._last_seq = 5
        assert isinstance(next(session.stream([clip[0]])), FrameResult)


def frame_first(protocol: StreamProtocol) -> None:
    protocol._outbox.clear()
    protocol._outbox.append(pb.StreamRequest(frame=wire.frame(NOISE, "raw", None)))


def open_twice(protocol: StreamProtocol) -> None:
    protocol._outbox.append(protocol._outbox[0])


@pytest.mark.parametrize(
    ("violate", "message"),
    [(frame_first, "the first message of a stream is open; got frame"), (open_twice, "this stream is open already")],
)
def test_messages_out_of_place_end_their_stream_with_the_rule(
    client: Client, clip: Clip, violate: Violation, message: str
) -> None:
    protocol = StreamProtocol()
    violate(protocol)
    with client.open() as neighbor:
        with pytest.raises(ProtocolViolation, match=message):
            Session(client._stub, protocol, client.address, timeout=60).recv(timeout=60)
        assert len(list(neighbor.stream(clip[:2]))) == 2


def test_a_full_server_refuses_further_sessions_and_says_when_to_come_again(client: Client, clip: Clip) -> None:
    sessions: list[Session] = []
    try:
        sessions.extend(open_soon(client) for _ in range(8))
        with pytest.raises(Overloaded, match="all 8 sessions are taken") as refused:
            client.open()
        assert refused.value.retry_seconds is not None
        assert refused.value.retry_seconds > 0
        assert len(list(sessions[0].stream(clip[:2]))) == 2
    finally:
        for session in sessions:
            session.close()


def test_an_unexpected_token_is_not_found(client: Client) -> None:
    for call in (
        lambda: client.open(resume_token="guess"),
        lambda: client.get_session("guess"),
        lambda: client.close_session("guess"),
    ):
        with pytest.raises(NotFound, match="no session has this resume_token"):
            call()


@pytest.mark.parametrize("latents", [np.zeros((3, 3), np.float32), np.full((10, 16), np.nan, np.float32)])
def test_latents_of_another_shape_or_not_finite_are_refused(client: Client, latents: NDArray[np.float32]) -> None:
    with pytest.raises(LegatoError, match="latents"):
        client.synthesize(latents=latents)
