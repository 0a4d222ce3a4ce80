"""Streams against a real server, for threads and for asyncio: what is promised of a session that goes well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from legato_client import (
    AsyncClient,
    Client,
    DeadlineMissed,
    Dropped,
    Edit,
    Frame,
    FrameResult,
    NotFound,
    Outputs,
    SessionClosed,
)
from legato_client.images import jpeg
from legato_client.local import LocalServer
from tests.client.servers import WAIT_SECONDS
from tests.rpc.model import DIM, LAYERS, NAMES
from tests.rpc.wire import RESOLUTION
from tests.tolerances import BATCH_LEVELS

Clip = list[NDArray[np.uint8]]
EXACT_OUTPUTS = Outputs(latents=True, format="raw")


def results(answers: Any) -> list[FrameResult]:
    found = list(answers)
    assert all(isinstance(answer, FrameResult) for answer in found), found
    return found


def test_every_frame_comes_back_in_order_with_all_that_was_asked_for(client: Client, clip: Clip) -> None:
    with client.open(edits={"smile": 2.0}, outputs=EXACT_OUTPUTS) as session:
        assert session.model.resolution == RESOLUTION
        answers = results(session.stream(clip))
        stats = session.close()
    assert [answer.seq for answer in answers] == list(range(1, len(clip) + 1))
    for answer in answers:
        assert answer.reconstruction is not None
        assert answer.edited is not None
        assert answer.latents is not None
        assert answer.psnr_db is not None
        assert answer.reconstruction.pixels.shape == (RESOLUTION, RESOLUTION, 3)
        assert not np.array_equal(answer.reconstruction.pixels, answer.edited.pixels)
        assert answer.latents.shape == (LAYERS, DIM)
        assert {"decode", "queue", "encode", "synthesize"} <= answer.stage_seconds.keys()
        assert 0 < answer.server_seconds < answer.age_seconds
    assert (stats.frames_received, stats.frames_completed) == (len(clip), len(clip))
    assert stats.mean_psnr_db == pytest.approx(np.mean([answer.psnr_db for answer in answers if answer.psnr_db]))


def test_outputs_that_were_not_asked_for_do_not_travel(client: Client, clip: Clip) -> None:
    with client.open(outputs=Outputs(reconstruction=False), edits=[Edit("yaw", 1.0)]) as session:
        (answer,) = results(session.stream(clip[:1]))
    assert answer.reconstruction is None
    assert answer.latents is None
    assert answer.edited is not None
    assert answer.edited.format == "jpeg"


@pytest.mark.parametrize("image_format", ["raw", "jpeg", "png"])
def test_answers_travel_in_the_format_that_was_asked_for(client: Client, clip: Clip, image_format: Any) -> None:
    with client.open(outputs=Outputs(format=image_format)) as session:
        (answer,) = results(session.stream(clip[:1]))
    assert answer.reconstruction is not None
    assert answer.reconstruction.format == image_format
    assert answer.reconstruction.pixels.shape == (RESOLUTION, RESOLUTION, 3)


def test_send_and_recv_by_hand(client: Client, clip: Clip) -> None:
    with client.open() as session:
        assert session.send(clip[0]) == 1
        assert session.send(Frame(clip[1], capture_time=12.5), seq=7) == 7
        first, second = session.recv(timeout=60), session.recv(timeout=60)
        assert isinstance(second, FrameResult)
        assert (first.seq, second.seq, second.capture_time) == (1, 7, 12.5)
        with pytest.raises(DeadlineMissed, match=r"gave no answer within 0\.01 s"):
            session.recv(timeout=0.01)
        assert session.close() == session.close()
        with pytest.raises(SessionClosed):
            session.send(clip[0])
        with pytest.raises(SessionClosed):
            session.recv()


def test_threads_and_asyncio_get_the_same(server: LocalServer, client: Client, clip: Clip) -> None:
    with client.open(edits={"smile": 1.0}, outputs=EXACT_OUTPUTS, in_flight=1) as session:
        threaded = results(session.stream(clip))

    async def stream() -> list[Any]:
        async def camera() -> AsyncIterator[NDArray[np.uint8]]:
            for frame in clip:
                await asyncio.sleep(0)
                yield frame

        async with AsyncClient(server.address) as connected:
            opening = connected.open(edits={"smile": 1.0}, outputs=EXACT_OUTPUTS, in_flight=1)
            async with opening as session:
                return [answer async for answer in session.stream(camera())]

    awaited = results(asyncio.run(stream()))
    for one, other in zip(threaded, awaited, strict=True):
        assert one.latents is not None
        assert other.latents is not None
        assert one.reconstruction is not None
        assert one.seq == other.seq
        assert np.array_equal(one.latents, other.latents)
        assert one.reconstruction == other.reconstruction
        assert one.edited == other.edited


def test_an_async_client_may_be_made_before_its_loop_runs(server: LocalServer) -> None:
    client = AsyncClient(server.address)

    async def ask() -> list[str]:
        async with client:
            return [model.name for model in await client.list_models()]

    assert asyncio.run(ask()) == ["tiny"]
    asyncio.run(AsyncClient("nowhere").close())


async def test_asyncio_by_hand(server: LocalServer, clip: Clip) -> None:
    async with AsyncClient(server.address) as client:
        assert [model.name for model in await client.list_models()] == ["tiny"]
        assert [direction.name for direction in await client.list_directions()] == list(NAMES)
        session = await client.open(policy="ordered")
        assert await session.send(clip[0]) == 1
        assert isinstance(await session.recv(timeout=60), FrameResult)
        state = await client.get_session(session.resume_token)
        assert (state.session_id, state.streaming, state.last_seq) == (session.id, True, 1)
        await session.update(edits={"yaw": 2.0})
        (answer,) = [answer async for answer in session.stream(clip[:1])]
        assert isinstance(answer, FrameResult)
        assert answer.edited is not None
        with pytest.raises(DeadlineMissed):
            await session.recv(timeout=0.01)
        assert (await session.close()).frames_completed == 2
        with pytest.raises(NotFound):
            await client.close_session(session.resume_token)


def test_an_update_holds_from_its_frame_on(client: Client, clip: Clip) -> None:
    with client.open() as session:
        session.update(edits={"smile": 2.0}, from_seq=3)
        first = results(session.stream(clip[:4]))
        session.update(edits=(), outputs=Outputs(reconstruction=False, latents=True))
        (last,) = results(session.stream(clip[:1]))
    assert [answer.edited is not None for answer in first] == [False, False, True, True]
    assert last.edited is None
    assert last.reconstruction is None
    assert last.latents is not None


def test_edits_of_one_frame_hold_for_it_alone(client: Client, clip: Clip) -> None:
    with client.open() as session:
        answers = results(session.stream([clip[0], Frame(clip[0], edits=(Edit("smile", 1.0),)), clip[0]]))
    assert [answer.edited is not None for answer in answers] == [False, True, False]


def test_latest_answers_or_tells_of_every_frame_and_ends_with_the_newest(client: Client, clip: Clip) -> None:
    with client.open(policy="latest", in_flight=1) as session:
        answers = list(session.stream(clip * 5))
    assert sorted(answer.seq for answer in answers) == list(range(1, 5 * len(clip) + 1))
    assert isinstance(max(answers, key=lambda answer: answer.seq), FrameResult)
    passed = [answer for answer in answers if not isinstance(answer, FrameResult)]
    assert passed
    assert all(isinstance(answer, Dropped) and answer.reason == "stale" for answer in passed)


def test_what_the_source_raises_comes_after_the_answers_of_what_it_gave(client: Client, clip: Clip) -> None:
    def camera() -> Iterator[NDArray[np.uint8]]:
        yield from clip[:3]
        raise OSError("unplugged")

    seen: list[Any] = []
    with client.open() as session:
        with pytest.raises(OSError, match="unplugged"):
            seen.extend(session.stream(camera()))
        assert len(seen) == 3
        assert len(results(session.stream(clip[:2]))) == 2


def test_a_reader_that_leaves_early_leaves_a_session_that_goes_on(client: Client, clip: Clip) -> None:
    with client.open() as session:
        for answer in session.stream(clip):
            if answer.seq == 2:
                break
        later = results(session.stream(clip[:2]))
    assert len(later) == 2
    assert later[0].seq > 2


async def test_an_awaiting_reader_may_leave_early_too(server: LocalServer, clip: Clip) -> None:
    async with AsyncClient(server.address) as client, client.open() as session:
        stream = session.stream(clip)
        async for answer in stream:
            if answer.seq == 2:
                break
        await stream.aclose()
        assert len([answer async for answer in session.stream(clip[:2])]) == 2


def test_a_slow_reader_holds_the_server_back_and_loses_nothing(client: Client, clip: Clip) -> None:
    with client.open(answers_ahead=2) as session:
        answers, protocol = session.stream(clip[:6]), session._protocol
        seen = [next(answers).seq]
        deadline = time.monotonic() + WAIT_SECONDS
        while len(protocol._answers._ready) < 2 or not protocol._sent_at:  # the server has used up its credit
            assert time.monotonic() < deadline
            time.sleep(0.01)
        seen += [answer.seq for answer in answers]
    assert seen == list(range(1, 7))


def test_a_session_whose_stream_was_cut_is_resumed_where_it_was(client: Client, clip: Clip) -> None:
    with client.open(outputs=EXACT_OUTPUTS, in_flight=1) as session:
        whole = results(session.stream(clip[:6]))
    session = client.open(outputs=EXACT_OUTPUTS, in_flight=1)
    cut = results(session.stream(clip[:3]))
    session.cancel()
    assert client.get_session(session.resume_token).last_seq == 3
    with client.open(resume_token=session.resume_token, last_seq=3, in_flight=1) as resumed:
        assert resumed.id == session.id
        cut += results(resumed.stream(clip[3:6]))
    assert [answer.seq for answer in cut] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(whole, cut, strict=True):
        assert one.latents is not None
        assert other.latents is not None
        assert np.array_equal(one.latents, other.latents)
        assert one.state_version == other.state_version


def test_another_client_may_close_a_session(server: LocalServer, client: Client, clip: Clip) -> None:
    session = client.open()
    results(session.stream(clip[:2]))
    with Client(server.address) as other:
        assert other.close_session(session.resume_token).frames_completed == 2
        with pytest.raises(NotFound, match="no session has this resume_token"):
            other.get_session(session.resume_token)
    with pytest.raises(SessionClosed):
        session.recv()
    session.cancel()


def test_images_without_a_session(client: Client, clip: Clip) -> None:
    found = client.invert(clip[0], edits={"smile": 1.0})
    assert found.latents is not None
    assert found.reconstruction is not None
    assert found.reconstruction.format == "png"
    assert found.edited is not None
    again = client.synthesize(latents=found.latents)
    difference = again.image.pixels.astype(int) - found.reconstruction.pixels.astype(int)
    assert np.abs(difference).max() <= BATCH_LEVELS
    assert np.abs(difference).mean() < 0.5
    assert again.model_digest == found.model_digest == client.list_models()[0].digest
    drawn = [client.synthesize(seed=seed, truncation=0.5).image for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_a_file_holds_is_what_an_array_holds(client: Client, clip: Clip) -> None:
    file = jpeg(clip[0], 95)
    with client.open(frames_as="jpeg", outputs=EXACT_OUTPUTS) as session:
        (array,) = results(session.stream([clip[0]]))
    with client.open(outputs=EXACT_OUTPUTS) as session:
        (packed,) = results(session.stream([file]))
    assert array.latents is not None
    assert packed.latents is not None
    assert np.array_equal(array.latents, packed.latents)
