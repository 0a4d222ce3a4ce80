"""Clients that do anything, at the same time: every frame is accounted for once, and every place is freed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import grpc

from legato.engine import Engine
from legato_pb import inversion_pb2 as pb
from tests.rpc.conftest import MAX_SESSIONS
from tests.rpc.running import Running, wait_until
from tests.rpc.wire import Refusal, Wire, picture

EXPECTED_REFUSALS = {"SESSIONS_FULL", "SESSION_NOT_FOUND", "SESSION_TAKEN_OVER", "QUEUE_FULL"}
CLIENTS, SESSIONS_EACH = 6, 5


class Client:
    """Opens, resumes, sends good and bad frames, reads or does not, and leaves in every way there is."""

    def __init__(self, running: Running, seed: int) -> None:
        self.refused: set[str] = set()
        self._running, self._random = running, random.Random(seed)
        self._token, self._last = "", 0

    def live(self) -> None:
        for _ in range(SESSIONS_EACH):
            try:
                self._session()
            except grpc.RpcError as error:
                self.refused.add(Refusal(error).reason)
                self._token, self._last = "", 0

    def _session(self) -> None:
        choose = self._random.random
        with self._running.wire() as wire:
            policy = self._random.choice([pb.DELIVERY_POLICY_ORDERED, pb.DELIVERY_POLICY_LATEST])
            wire.open(policy=policy, resume_token=self._token, last_seq=self._last)
            self._token = wire.opened.resume_token
            for seq in range(self._last + 1, self._last + self._random.randint(2, 8)):
                wire.frame(seq, pb.Image(format=pb.IMAGE_FORMAT_PNG, data=b"no") if choose() < 0.2 else picture())
                if choose() < 0.5 and (answer := wire.next()).HasField("result"):
                    self._last = answer.result.seq
            self._leave(choose(), wire)

    def _leave(self, how: float, wire: Wire) -> None:
        if how < 0.3:
            wire.send(close=pb.Close())
            assert wire.rest()[-1].HasField("closed")
        elif how < 0.5:
            wire.end()
            wire.rest()
        elif how < 0.6:
            self._running.stub.CloseSession(pb.CloseSessionRequest(resume_token=self._token))
        elif how < 0.7:
            self._running.stub.Invert(pb.InvertRequest(image=picture()))
        if how < 0.3 or 0.5 <= how < 0.6:  # closed, the other ways leave it to be resumed
            self._token, self._last = "", 0


def test_whatever_clients_do_nothing_is_lost(
    serve: Callable[..., AbstractContextManager[Running]], engine: Engine
) -> None:
    with serve(resume_seconds=0.3) as running:
        clients = [Client(running, seed) for seed in range(CLIENTS)]
        threads = [threading.Thread(target=client.live) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set().union(*(client.refused for client in clients)) <= EXPECTED_REFUSALS
        wait_until(lambda: running.value("legato_sessions_active") == 0)
        wait_until(lambda: engine.queue_depth == 0)
        with running.wire().open() as wire:
            wire.frame(1)
            assert wire.result().state_version == 1
        value = running.value
        reasons = ("stale", "queue_full", "deadline", "shutdown", "disconnected")
        dropped = sum(value("legato_frames_dropped_total", reason=reason) for reason in reasons)
        settled = value("legato_frames_completed_total") + value("legato_frames_failed_total") + dropped
        assert value("legato_frames_received_total") == settled > CLIENTS
        wires = [running.wire().open() for _ in range(MAX_SESSIONS - 1)]
        for each in wires:
            each.call.cancel()
