"""One session's memory: order of frames, credits, delivery policy, settings that change on the way, counters.

A pure state machine: no clock, no thread, no gRPC, no torch. The stream drives it from one thread:

    receive -> [waiting] -> take -> [running: decoded, in the engine] -> settle -> [outbox] -> next_answer

Every received frame settles exactly once: answered, failed or dropped. Answers and failures leave in the order of seq,
a drop leaves at once. ORDERED runs every frame, and drops only one that was sent without a credit. LATEST keeps only
the newest waiting frame: each frame that it passes over is dropped as STALE.

When its stream is cut, the session lives on: frames that the engine has not begun are forgotten, answers that may not
have arrived are kept, and a client that comes back sends again what it misses.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from legato.alignment import SessionAligner
from legato.errors import InvalidInput, LegatoError, Overloaded, ProtocolViolation
from legato.options import Change, DropReason, Policy, Settings
from legato.types import FrameAnswer
from legato.work import Failed, FrameObserver, Outcome, Stats, Unobserved, Work

RUNNING = 2  # frames of one session between take and next_answer: one in the engine, one on its way in or out
MAX_UNTAKEN = 4096  # answers that may lie in the outbox of a client that takes none
MAX_UPDATES = 64  # updates that may wait for their from_seq


def _asleep() -> None:
    """The wake of a session without a stream."""


class Session:
    """What the server knows of one session. All methods belong to one thread (the event loop's).

    Args:
        credits: frames that may be in flight under ORDERED; one more is dropped as QUEUE_FULL.
        aligner: finds the face in its frames, where the client asked for that.
        observer: hears of each frame twice, when it comes in and when it settles; not of one that is sent again.

    The stream sets `wake`, which is called after every change that may let a frame start or an answer leave.
    """

    def __init__(
        self,
        *,
        id: str,
        slot: int,
        model: str,
        policy: Policy,
        settings: Settings,
        credits: int,
        observer: FrameObserver | None = None,
        aligner: SessionAligner | None = None,
    ) -> None:
        self.id = id
        self.slot = slot
        self.model = model
        self.policy = policy
        self.aligner = aligner
        self.credits = credits
        self.stats = Stats()
        self.last_seq = 0  # the newest frame that was taken in
        self.state_version = 0
        self.closing = False  # the client said close: no frame comes any more
        self.wake: Callable[[], None] = _asleep
        self._settings = settings
        self._updates: list[Change] = []
        self._observer = observer or Unobserved()
        self._waiting: deque[Work] = deque()
        self._frames: dict[int, Work] = {}  # waiting and running, in the order of seq
        self._running = 0  # taken, and not yet handed out by next_answer
        self._outbox: deque[Work] = deque()
        self._kept: deque[Work] = deque(maxlen=credits + RUNNING)  # the last answers, for a client that lost them
        self._computed_seq = 0
        self._answers_wanted = math.inf

    @property
    def in_flight(self) -> int:
        """Frames that have not settled, or wait behind one that has not."""
        return len(self._frames)

    @property
    def finished(self) -> bool:
        """Nothing in flight and nothing to tell."""
        return not self._frames and not self._outbox

    @property
    def newer_waits(self) -> bool:
        """A frame waits to be taken."""
        return bool(self._waiting)

    def receive(
        self,
        seq: int,
        payload: Any,
        arrival: float,
        *,
        capture_time: float = 0.0,
        own: Change | None = None,
    ) -> None:
        """Takes in a frame; `own` changes the session's settings for this frame alone.

        Raises Overloaded (ANSWERS_NOT_TAKEN) when the client takes no answers; all else is answered in the stream.
        """
        work = Work(seq, payload, self._settings, arrival, capture_time)
        if not self._enter(work):
            return
        work.settings = self._settings_at(seq)
        if own is not None:
            work.settings = own.apply(work.settings)
        if self.policy is Policy.LATEST:
            while self._waiting:
                self._settle(self._waiting.popleft(), DropReason.STALE)
        if self.policy is Policy.ORDERED and len(self._frames) + len(self._outbox) > self.credits:
            self._settle(work, DropReason.QUEUE_FULL)
        else:
            self._waiting.append(work)
        self.wake()

    def fail(self, seq: int, error: LegatoError, arrival: float) -> None:
        """Takes in a frame whose message cannot be right, and answers it. Raises as `receive`."""
        work = Work(seq, None, self._settings, arrival)
        if self._enter(work):
            self.settle(work, Failed(error.reason, str(error)))

    def update(self, change: Change) -> None:
        """Changes what frames ask for. Raises ProtocolViolation when too many changes wait for their frame."""
        if len(self._updates) >= MAX_UPDATES:
            raise ProtocolViolation(
                f"at most {MAX_UPDATES} updates wait for their from_seq; send frames, or fewer updates"
            )
        self._updates.append(change)

    def _enter(self, work: Work) -> bool:
        """Books a new frame; False when it has been answered already."""
        if len(self._outbox) >= MAX_UNTAKEN:
            raise Overloaded(
                f"{MAX_UNTAKEN} answers wait for a client that takes none; read the stream and grant credits",
                reason="ANSWERS_NOT_TAKEN",
            )
        if self.closing or work.seq <= self.last_seq:
            rule = (
                f"each seq is greater than the one before, the first at least 1; got {work.seq} after {self.last_seq}"
            )
            late = Failed("SESSION_CLOSING", "no frame follows close; open a new session")
            self._count_in()
            self._finish(work, late if self.closing else Failed("SEQ_NOT_INCREASING", rule))
            self._outbox.append(work)
            self.wake()
            return False
        self.last_seq = work.seq
        if work.seq <= self._computed_seq:  # sent again after a resume: the state has moved on, and does not move twice
            kept = next((known for known in self._kept if known.seq == work.seq), None)
            work.outcome = kept.outcome if kept else DropReason.STALE
            self._outbox.append(work)
            self.wake()
            return False
        self._count_in()
        self._frames[work.seq] = work
        return True

    def _count_in(self) -> None:
        self.stats.received += 1
        self._observer.received()

    def _settings_at(self, seq: int) -> Settings:
        due = sorted((change for change in self._updates if change.from_seq <= seq), key=lambda change: change.from_seq)
        self._updates = [change for change in self._updates if change.from_seq > seq]
        for change in due:
            self._settings = change.apply(self._settings)
        return self._settings

    def take(self) -> Work | None:
        """The next frame to decode and submit, if one may start now."""
        if not self._waiting or self._running >= RUNNING:
            return None
        work = self._waiting.popleft()
        work.taken = True
        self._running += 1
        return work

    def passed_over(self) -> list[Work]:
        """Frames in the engine that a newer waiting one makes stale (LATEST), newest first: cancel them if possible."""
        if self.policy is not Policy.LATEST or not self._waiting:
            return []
        return [work for work in reversed(self._frames.values()) if work.submitted and work.outcome is None]

    def settle(self, work: Work, outcome: Outcome) -> None:
        """Ends a frame. One that has settled already (it was canceled) is left alone."""
        if self._frames.get(work.seq) is work and work.outcome is None:
            self._settle(work, outcome)
            self.wake()

    def drop_all(self, reason: DropReason) -> None:
        """Drops every frame that has not settled."""
        self._waiting.clear()
        for work in list(self._frames.values()):
            if work.outcome is None:
                self._settle(work, reason)
        self.wake()

    def grant(self, count: float) -> None:
        """The client takes `count` more answers."""
        self._answers_wanted += count
        self.wake()

    def next_answer(self) -> Work | None:
        """A settled frame to tell the client of, if there is one and the client has granted credit for it."""
        if not self._outbox or self._answers_wanted < 1:
            return None
        self._answers_wanted -= 1
        work = self._outbox.popleft()
        self._release(work)
        return work

    def _settle(self, work: Work, outcome: Outcome) -> None:
        self._finish(work, outcome)
        if isinstance(outcome, DropReason):
            del self._frames[work.seq]
            self._outbox.append(work)
            self._release(work)
        while self._frames and (first := next(iter(self._frames.values()))).outcome is not None:
            del self._frames[first.seq]
            self._outbox.append(first)

    def _finish(self, work: Work, outcome: Outcome) -> None:
        work.outcome = outcome
        work.payload = None
        if isinstance(outcome, FrameAnswer):
            self.stats.completed += 1
            if math.isfinite(outcome.psnr_db):
                self.stats.psnr_sum += outcome.psnr_db
                self.stats.psnr_frames += 1
            self.state_version = outcome.state_version
            self._computed_seq = max(self._computed_seq, work.seq)
            self._kept.append(work)
        elif isinstance(outcome, Failed):
            self.stats.failed += 1
        else:
            self.stats.dropped += 1
        self._observer.settled(work, outcome)

    def _release(self, work: Work) -> None:
        if work.taken:
            work.taken = False
            self._running -= 1

    def detach(self) -> list[Work]:
        """The stream is gone: forgets what has not begun. Gives back what the engine has, to be canceled."""
        self.wake = _asleep
        self._waiting.clear()
        for work in list(self._frames.values()):
            if not work.submitted and work.outcome is None:
                self._settle(work, DropReason.DISCONNECTED)
        self._empty_outbox()
        return [work for work in self._frames.values() if work.outcome is None]

    def attach(self, last_seq: int, answers_wanted: float) -> None:
        """A new stream goes on after `last_seq`, the last answer that the client has. Nothing may be in flight.

        Raises InvalidInput when the session never saw that frame.
        """
        if last_seq > max(self.last_seq, self._computed_seq):
            raise InvalidInput(
                f"last_seq is the seq of an answer of this session, at most {self.last_seq}; got {last_seq}",
                field="open.last_seq",
            )
        self._empty_outbox()
        self.last_seq = last_seq
        self._answers_wanted = answers_wanted

    def _empty_outbox(self) -> None:
        while self._outbox:
            self._release(self._outbox.popleft())
