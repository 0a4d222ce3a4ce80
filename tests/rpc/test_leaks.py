"""Hundreds of sessions come and go in every way that a client can think of; nothing of them is left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from legato.commands.serve import build_engine
from legato.config import EngineConfig
from legato.engine import Engine
from legato.scheduler import Scheduler
from legato_pb import inversion_pb2 as pb
from tests.rpc.running import Running, wait_until
from tests.rpc.wire import Wire, picture, refusal

Serve = Callable[..., AbstractContextManager[Running]]
SESSIONS, PLACES = 200, 64
SMILE = pb.Edit(direction="smile", strength=1.0)
BUDGET = pb.Budget(max_steps=3)


def closed(running: Running, wire: Wire) -> None:
    """In good order, its last frames still in flight."""
    wire.frame(1)
    wire.frame(2)
    wire.send(close=pb.Close())
    wire.rest()


def cut_in_flight(running: Running, wire: Wire) -> None:
    """Dead while frames are refined and wait."""
    for seq in range(1, 5):
        wire.frame(seq)


def cut_after_an_answer(running: Running, wire: Wire) -> None:
    wire.frame(1)
    wire.result()
    wire.frame(2)


def half_closed(running: Running, wire: Wire) -> None:
    """The client says no more, and never close."""
    wire.frame(1)
    wire.end()
    wire.rest()


def bad_frames(running: Running, wire: Wire) -> None:
    wire.frame(1, pb.Image(format=pb.IMAGE_FORMAT_JPEG, data=b"\xff\xd8\xff no picture"))
    wire.failed()
    wire.frame(2, edits=pb.EditList(edits=[pb.Edit(direction="no such direction", strength=1.0)]))
    wire.failed()
    wire.frame(3, picture(shade=30))


def broken_protocol(running: Running, wire: Wire) -> None:
    """A second open ends the stream with an error while a frame is on its way."""
    wire.frame(1)
    wire.send(open=pb.Open())
    assert refusal(wire.rest).reason == "ALREADY_OPEN"


def closed_from_outside(running: Running, wire: Wire) -> None:
    for seq in range(1, 4):
        wire.frame(seq)
    running.stub.CloseSession(pb.CloseSessionRequest(resume_token=wire.opened.resume_token))


def taken_over(running: Running, wire: Wire) -> None:
    """Resumed by a second stream while the first still sends; that one is cut in its turn."""
    wire.frame(1)
    with running.wire().open(resume_token=wire.opened.resume_token, last_seq=0) as second:
        second.frame(1)
        second.frame(2)


WAYS = (
    closed,
    cut_in_flight,
    cut_after_an_answer,
    half_closed,
    bad_frames,
    broken_protocol,
    closed_from_outside,
    taken_over,
)


def test_no_slot_and_no_row_is_lost(serve: Serve, engine_config: EngineConfig) -> None:
    engine = build_engine(replace(engine_config, max_sessions=PLACES, queue_size=32, window_share=0.5))
    engine.start()
    ended: Counter[str] = Counter()
    try:
        with serve(engine, resume_seconds=0.0) as running:
            store = running.server._store
            assert store is not None
            for number in range(SESSIONS):
                wait_until(lambda: len(store) < PLACES)
                policy = pb.DELIVERY_POLICY_LATEST if number % 3 else pb.DELIVERY_POLICY_ORDERED
                with running.wire().open(edits=[SMILE], budget=BUDGET, policy=policy) as wire:
                    WAYS[number % len(WAYS)](running, wire)
            wait_until(lambda: not store.streams)
            wait_until(lambda: not len(store))
            for outcome in ("closed", "expired", "refused", "shutdown"):
                ended[outcome] = int(running.value("legato_sessions_total", outcome=outcome))
            wait_until(lambda: not engine._queue.busy and not engine._closed)
            nothing_is_left(engine)
    finally:
        engine.stop(1.0)
    assert ended["closed"] + ended["expired"] == SESSIONS
    assert ended["refused"] == ended["shutdown"] == 0


def nothing_is_left(engine: Engine) -> None:
    """Every slot is free once, no row is in flight, and the queue knows no slot any more."""
    assert sorted(engine._slots._free) == list(range(PLACES))
    assert len(engine._pipeline._flights) == 0
    window = engine._pipeline._window
    assert window is not None
    wait_until(lambda: not window._turns)
    assert len(engine._pipeline._flights._free) == engine.options.in_flight
    assert not engine._stages._flights
    waiting = engine._queue
    assert isinstance(waiting, Scheduler)
    assert not waiting.busy
    for known in (
        waiting._lanes,
        waiting._flying,
        waiting._last_seen,
        waiting._answered,
        waiting._owed,
        waiting._paces,
    ):
        assert not known, known
