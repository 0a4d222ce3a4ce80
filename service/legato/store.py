"""Where sessions are found again: every live session by its resume token, in this process's memory.

A session whose stream was cut is kept for `resume_seconds`, then its slot is freed. The token is the only way to a
session: 256 random bits, of which the store keeps the hash alone. No torch here; the engine is given.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from legato.errors import NotFound, Overloaded
from legato.session import Session


class Slots(Protocol):
    """What holds the state of sessions: one version of a model."""

    def open_slot(self) -> int: ...
    def close_slot(self, slot: int) -> None: ...


S = TypeVar("S")


@dataclass(slots=True, eq=False)
class Entry(Generic[S]):
    """A session, the stream that serves it now (None: cut), and when it is freed if no stream comes."""

    session: Session
    slots: Slots
    key: bytes
    stream: S | None = None
    expires: float = 0.0  # monotonic seconds; counts while stream is None


class SessionStore(Generic[S]):
    """All sessions of this process, `capacity` at most over all models.

    `ended(outcome)` is told once of each: closed, expired, shutdown, or refused.
    """

    def __init__(
        self,
        capacity: int,
        *,
        resume_seconds: float,
        ended: Callable[[str], None] = lambda outcome: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._resume_seconds = resume_seconds
        self._ended = ended
        self._clock = clock
        self._entries: dict[bytes, Entry[S]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def streams(self) -> list[S]:
        """The streams that are served now."""
        return [entry.stream for entry in self._entries.values() if entry.stream is not None]

    def open(self, slots: Slots, make: Callable[[str, int], Session]) -> tuple[Entry[S], str]:
        """A new session in a slot of `slots`, made by `make(id, slot)`, with its resume token.

        Raises Overloaded (SESSIONS_FULL); its retry time is when the next session without a stream is freed.
        """
        try:
            if len(self._entries) >= self._capacity:
                full = f"all {self._capacity} sessions are taken; close one, or try again later"
                raise Overloaded(full, reason="SESSIONS_FULL")
            slot = slots.open_slot()
        except Overloaded as error:
            self._ended("refused")
            left = [entry.expires - self._clock() for entry in self._entries.values() if entry.stream is None]
            error.retry_seconds = max(min(left, default=error.retry_seconds), 0.1)
            raise
        token = secrets.token_urlsafe(32)
        entry: Entry[S] = Entry(make(secrets.token_hex(8), slot), slots, _key(token))
        self._entries[entry.key] = entry
        return entry, token

    def find(self, token: str) -> Entry[S]:
        """The session of a token. Raises NotFound, in the same words for a token that never was or has expired."""
        entry = self._entries.get(_key(token))
        if entry is None:
            raise NotFound(
                f"no session has this resume_token: it was closed, or it had no stream for {self._resume_seconds:g} s; "
                "open a new session",
                reason="SESSION_NOT_FOUND",
            )
        return entry

    def detach(self, entry: Entry[S]) -> None:
        """The session's stream is gone; from now on it waits to be resumed."""
        entry.stream = None
        entry.expires = self._clock() + self._resume_seconds

    def close(self, entry: Entry[S], outcome: str) -> None:
        """Frees a session's state. A second time does nothing."""
        if self._entries.pop(entry.key, None) is not None:
            entry.slots.close_slot(entry.session.slot)
            self._ended(outcome)

    def close_all(self, outcome: str) -> None:
        """Frees every session."""
        for entry in list(self._entries.values()):
            self.close(entry, outcome)

    def expire(self) -> list[Session]:
        """Frees every session that waited its time; gives them back."""
        now = self._clock()
        due = [entry for entry in self._entries.values() if entry.stream is None and entry.expires <= now]
        for entry in due:
            self.close(entry, "expired")
        return [entry.session for entry in due]


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
