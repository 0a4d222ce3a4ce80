"""Sessions are found by their token alone, and freed when their time is over."""

from __future__ import annotations

import pytest

from legato.errors import NotFound, Overloaded
from legato.options import Policy, Settings
from legato.session import Session
from legato.store import SessionStore


class Places:
    """Slots of an engine, counted."""

    def __init__(self, count: int) -> None:
        self.free = list(range(count))

    def open_slot(self) -> int:
        if not self.free:
            raise Overloaded("all taken", reason="SESSIONS_FULL")
        return self.free.pop()

    def close_slot(self, slot: int) -> None:
        assert slot not in self.free
        self.free.append(slot)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(id: str, slot: int) -> Session:
    return Session(id=id, slot=slot, model="m", policy=Policy.ORDERED, settings=Settings(), credits=2)


def build(count: int = 2, resume_seconds: float = 5.0) -> tuple[SessionStore[str], Places, Clock, list[str]]:
    places, clock, ended = Places(count), Clock(), list[str]()
    store: SessionStore[str] = SessionStore(100, resume_seconds=resume_seconds, ended=ended.append, clock=clock)
    return store, places, clock, ended


def test_a_session_is_found_by_its_token_and_by_nothing_else() -> None:
    store, places, *_ = build()
    entry, token = store.open(places, make)
    assert store.find(token) is entry
    assert len(token) >= 43, "256 bits"
    for wrong in ("", entry.session.id, token[:-1], token + "x", "\udcff"):
        with pytest.raises(NotFound, match="open a new session"):
            store.find(wrong)


def test_tokens_and_ids_differ() -> None:
    store, places, *_ = build(count=50)
    opened = [store.open(places, make) for _ in range(50)]
    assert len({token for _, token in opened}) == len({entry.session.id for entry, _ in opened}) == 50


def test_a_session_without_a_stream_is_freed_when_its_time_is_over() -> None:
    store, places, clock, ended = build(count=1)
    entry, token = store.open(places, make)
    entry.stream = "stream"
    clock.now += 1000
    assert store.expire() == [], "a stream keeps it"
    store.detach(entry)
    clock.now += 4.9
    assert store.expire() == []
    assert store.find(token) is entry
    clock.now += 0.2
    assert store.expire() == [entry.session]
    assert places.free == [0]
    assert ended == ["expired"]
    with pytest.raises(NotFound, match=r"no stream for 5 s"):
        store.find(token)


def test_closing_twice_frees_once() -> None:
    store, places, _, ended = build()
    entry, _ = store.open(places, make)
    store.close(entry, "closed")
    store.close(entry, "closed")
    assert len(places.free) == 2
    assert ended == ["closed"]
    assert len(store) == 0


def test_a_full_server_says_when_the_next_place_is_free() -> None:
    store, places, clock, ended = build(count=2)
    (first, _), (second, _) = store.open(places, make), store.open(places, make)
    first.stream = second.stream = "stream"
    with pytest.raises(Overloaded) as caught:
        store.open(places, make)
    assert caught.value.retry_seconds == 1.0, "nobody is about to leave"
    store.detach(first)
    clock.now += 2.0
    with pytest.raises(Overloaded) as caught:
        store.open(places, make)
    assert caught.value.retry_seconds == pytest.approx(3.0)
    assert ended == ["refused", "refused"]


def test_all_streams_and_all_ends() -> None:
    store, places, _, ended = build()
    (first, _), _ = store.open(places, make), store.open(places, make)
    first.stream = "stream"
    assert store.streams == ["stream"]
    store.close_all("shutdown")
    assert len(places.free) == 2
    assert ended == ["shutdown", "shutdown"]


def test_a_session_is_freed_where_it_was_opened() -> None:
    store, places, *_ = build()
    others = Places(2)
    (first, _), (second, _) = store.open(places, make), store.open(others, make)
    store.close(second, "closed")
    assert (len(places.free), len(others.free)) == (1, 2)
    store.close(first, "closed")
    assert (len(places.free), len(others.free)) == (2, 2)


def test_all_models_share_the_sessions_of_a_server() -> None:
    places, others = Places(2), Places(2)
    store: SessionStore[str] = SessionStore(2, resume_seconds=5.0)
    store.open(places, make)
    entry, _ = store.open(others, make)
    with pytest.raises(Overloaded, match="all 2 sessions are taken") as full:
        store.open(others, make)
    assert (full.value.reason, len(others.free)) == ("SESSIONS_FULL", 1)
    store.close(entry, "closed")
    store.open(others, make)
