"""Sessions outlive their streams: cuts, resumes, take-overs, expiry, closing from outside, and clients that die."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager

import grpc
import pytest

from legato_pb import inversion_pb2 as pb
from tests.rpc.conftest import MAX_SESSIONS
from tests.rpc.running import Running, wait_until
from tests.rpc.wire import Refusal, Wire, kinds, picture, refusal

Serve = Callable[..., AbstractContextManager[Running]]
Hold = Callable[[], AbstractContextManager[None]]


def state(running: Running, token: str) -> pb.GetSessionResponse:
    return running.stub.GetSession(pb.GetSessionRequest(resume_token=token))


def cut(running: Running, wire: Wire) -> str:
    """Cancels the stream; the session's token, once the server has noticed."""
    token = wire.opened.resume_token
    wire.call.cancel()
    wait_until(lambda: not state(running, token).streaming)
    return token


def test_a_cut_session_goes_on_where_it_was(running: Running) -> None:
    with running.wire().open() as wire:
        for seq in (1, 2):
            wire.frame(seq)
            wire.result()
        token = cut(running, wire)
    kept = state(running, token)
    assert (kept.session_id, kept.last_seq, kept.state_version) == (wire.opened.session_id, 2, 2)
    resumes = running.value("legato_session_resumes_total")
    with running.wire().open(resume_token=token, last_seq=2) as again:
        assert again.opened.session_id == wire.opened.session_id
        assert again.opened.resume_token == token
        assert state(running, token).streaming
        again.frame(3)
        assert again.result().state_version == 3
    assert running.value("legato_session_resumes_total") == resumes + 1


def test_a_frame_sent_again_is_answered_from_memory_and_moves_nothing(running: Running) -> None:
    with running.wire().open(output=pb.OutputOptions(latents=True)) as wire:
        wire.frame(1)
        wire.frame(2, picture(shade=180))
        first, second = wire.result(), wire.result()
        token = cut(running, wire)
    with running.wire().open(resume_token=token, last_seq=1) as again:
        again.frame(2, picture(shade=30))
        repeated = again.result()
        assert repeated.latents == second.latents
        assert repeated.reconstruction == second.reconstruction
        assert repeated.state_version == 2
        again.frame(3)
        assert again.result().state_version == 3
    assert first.state_version == 1


def test_a_cut_drops_what_waits_and_frees_its_places(running: Running, hold: Hold) -> None:
    assert running.server._models is not None
    (engine,) = running.server._models.engines
    with hold():
        with running.wire().open() as wire:
            for seq in range(1, 5):
                wire.frame(seq)
            wait_until(lambda: engine.queue_depth == 2)
            wait_until(lambda: state(running, wire.opened.resume_token).stats.frames_received == 4)
            token = cut(running, wire)
        assert engine.queue_depth == 0
        stats = state(running, token).stats
        assert (stats.frames_received, stats.frames_dropped) == (4, 4)
    assert running.value("legato_frames_dropped_total", reason="disconnected") >= 4


def test_a_client_that_says_all_without_close_gets_all_and_keeps_its_session(running: Running) -> None:
    with running.wire().open() as wire:
        for seq in (1, 2, 3):
            wire.frame(seq)
        wire.end()
        assert kinds(wire.rest()) == ["result 1", "result 2", "result 3"]
    token = wire.opened.resume_token
    with running.wire().open(resume_token=token, last_seq=3) as again:
        again.frame(4)
        assert again.result().state_version == 4


def test_a_stream_that_never_opens_leaves_nothing(running: Running) -> None:
    with running.wire() as wire:
        wire.end()
        assert wire.rest() == []
    with running.wire():
        pass
    assert running.value("legato_sessions_active") == 0


def test_another_stream_takes_the_session_over(running: Running) -> None:
    with running.wire().open() as old:
        old.frame(1)
        old.result()
        with running.wire().open(resume_token=old.opened.resume_token, last_seq=1) as new:
            new.frame(2)
            assert new.result().state_version == 2
            refused = refusal(old.next)
            assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "SESSION_TAKEN_OVER")
            new.frame(3)
            assert new.result().state_version == 3


def test_two_clients_that_race_for_a_session_leave_one_stream(running: Running) -> None:
    with running.wire().open() as old:
        token = old.opened.resume_token
        rivals = [running.wire() for _ in range(4)]
        for rival in rivals:
            rival.send(open=pb.Open(resume_token=token))
        outcomes = []
        for rival in rivals:
            try:
                rival.next()
                rival.frame(1)
                outcomes.append(str(rival.next().WhichOneof("message")))
            except grpc.RpcError as error:
                outcomes.append(Refusal(error).reason)
        assert outcomes.count("result") == 1
        assert set(outcomes) == {"result", "SESSION_TAKEN_OVER"}
        for rival in rivals:
            rival.call.cancel()


@pytest.mark.parametrize("token", ["x", "\N{SNOWMAN}" * 100])
def test_an_unknown_token_opens_nothing(running: Running, token: str) -> None:
    calls = [
        lambda: running.wire().open(resume_token=token),
        lambda: running.stub.GetSession(pb.GetSessionRequest(resume_token=token)),
        lambda: running.stub.CloseSession(pb.CloseSessionRequest(resume_token=token)),
    ]
    for call in calls:
        refused = refusal(call)
        assert (refused.code, refused.reason) == ("NOT_FOUND", "SESSION_NOT_FOUND")
        assert token not in refused.message


def test_a_resume_after_a_frame_that_never_was_is_refused_and_spoils_nothing(running: Running) -> None:
    with running.wire().open() as wire:
        wire.frame(1)
        wire.result()
        token = cut(running, wire)
    refused = refusal(running.wire().open, resume_token=token, last_seq=9)
    assert (refused.code, refused.field) == ("INVALID_ARGUMENT", "open.last_seq")
    assert "at most 1; got 9" in refused.message
    with running.wire().open(resume_token=token, last_seq=1) as again:
        again.frame(2)
        assert again.result().state_version == 2


def test_a_session_is_freed_when_its_resume_time_is_over(serve: Serve) -> None:
    with serve(resume_seconds=0.3) as running:
        with running.wire().open() as wire:
            assert wire.opened.limits.resume_seconds == 0.3
            token = wire.opened.resume_token
        wait_until(lambda: running.value("legato_sessions_total", outcome="expired") == 1)
        wait_until(lambda: running.value("legato_sessions_active") == 0)
        refused = refusal(running.wire().open, resume_token=token)
        assert (refused.code, refused.reason) == ("NOT_FOUND", "SESSION_NOT_FOUND")


def test_a_full_server_refuses_and_says_when_to_come_back(running: Running) -> None:
    wires = [running.wire().open() for _ in range(MAX_SESSIONS)]
    assert running.value("legato_sessions_active") == MAX_SESSIONS
    refused = refusal(running.wire().open)
    assert (refused.code, refused.reason, refused.domain) == ("RESOURCE_EXHAUSTED", "SESSIONS_FULL", "legato")
    assert refused.retry_seconds == 1.0
    wires[0].send(close=pb.Close())
    assert kinds(wires[0].rest()) == ["closed"]
    with running.wire().open() as another:
        another.frame(1)
        assert another.result().state_version == 1, "a freed place is as new"
    for wire in wires:
        wire.call.cancel()


def test_close_session_ends_a_stream_in_good_order(running: Running) -> None:
    with running.wire().open() as wire:
        wire.frame(1)
        wire.result()
        token = wire.opened.resume_token
        answer = running.stub.CloseSession(pb.CloseSessionRequest(resume_token=token))
        assert answer.stats.frames_completed == 1
        assert kinds(wire.rest()) == ["closed"]
    assert refusal(running.stub.GetSession, pb.GetSessionRequest(resume_token=token)).code == "NOT_FOUND"


def test_close_session_frees_one_that_no_stream_serves(running: Running) -> None:
    with running.wire().open() as wire:
        token = cut(running, wire)
    running.stub.CloseSession(pb.CloseSessionRequest(resume_token=token))
    assert refusal(running.wire().open, resume_token=token).code == "NOT_FOUND"
    assert running.value("legato_sessions_active") == 0


DYING_CLIENT = """
    import os, sys, grpc
    from legato_pb import inversion_pb2 as pb, inversion_pb2_grpc
    from tests.rpc.wire import Wire
    wire = Wire(inversion_pb2_grpc.InversionServiceStub(grpc.insecure_channel(sys.argv[1]))).open()
    for seq in range(1, 5):
        wire.frame(seq)
    print(wire.result().seq, wire.opened.resume_token, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_client_that_is_killed_leaves_a_session_and_no_work(running: Running) -> None:
    with running.wire().open() as other:
        command = [sys.executable, "-c", textwrap.dedent(DYING_CLIENT), running.server.address]
        died = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert died.returncode == -9, died.stderr
        seq, token = died.stdout.split()
        wait_until(lambda: not state(running, token).streaming)
        other.frame(1)
        assert other.result().seq == 1, "other sessions never notice"
        with running.wire().open(resume_token=token, last_seq=int(seq)) as again:
            again.frame(5)
            assert again.result().seq == 5
