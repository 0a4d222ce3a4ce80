"""One stream of legato.v1 without any I/O: what to send next, what each answer means, what the caller may do now.

The transports (`session`, `async_session`) move messages and wait; every decision is taken here, once.

    caller:     pack -> send -> take        update   close
    transport:  next_message ->  wire  -> receive ... end

Invariant: every frame given to `send` or `fail` gets exactly one answer, unless the stream breaks.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from legato_client import alignment as aligning
from legato_client import wire
from legato_client.alignment import Alignment
from legato_client.answers import Answers
from legato_client.errors import (
    ConnectionLost,
    InvalidInput,
    LegatoError,
    ProtocolViolation,
    ServerStopping,
    SessionClosed,
)
from legato_client.images import Picture
from legato_client.types import (
    Answer,
    Budget,
    Changes,
    Dropped,
    Edits,
    Failed,
    Frame,
    FrameEncoding,
    Notice,
    Opened,
    Outputs,
    Policy,
    SessionStats,
    Variants,
    edit_list,
)
from legato_pb import inversion_pb2 as pb

_log = logging.getLogger("legato_client")


class StreamProtocol:
    """State of one stream. Not thread-safe: the transport holds its lock, except for `pack`, which changes nothing.

    The parameters are those of `SessionOptions`. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        *,
        model: str = "",
        edits: Edits = (),
        variants: Variants = (),
        policy: Policy = "ordered",
        budget: Budget | None = None,
        outputs: Outputs | None = None,
        in_flight: int = 0,
        answers_ahead: int = 64,
        frames_as: FrameEncoding = "auto",
        alignment: Alignment | None = None,
        resume_token: str = "",
        last_seq: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if in_flight < 0 or answers_ahead < 2:
            raise InvalidInput(f"in_flight >= 0 and answers_ahead >= 2; got {in_flight} and {answers_ahead}")
        if frames_as not in ("auto", "raw", "jpeg"):
            raise InvalidInput(f"frames_as is one of auto, raw, jpeg; got {frames_as!r}")
        self.opened: Opened | None = None
        self.stats: SessionStats | None = None  # once closed
        self.error: LegatoError | None = None  # once broken
        self.told = False  # the error was raised to the caller
        self.notices: list[Notice] = []
        self._policy, self._frames_as, self._clock = policy, frames_as, clock
        # At most half the answers that may wait here are on their way: those held for order can always be completed.
        self._most_in_flight = min(in_flight or answers_ahead, answers_ahead // 2)
        self._granted = 0
        self._last_seq = last_seq
        self._closing = self._closed_writing = False
        self._outbox: deque[pb.StreamRequest] = deque()
        self._sent_at: dict[int, float] = {}  # frames without an answer, parked ones too: hand-over in clock seconds
        self._parked: pb.FrameInput | None = None  # "latest": the newest frame, waiting for room in flight
        self._answers = Answers(ordered=policy != "latest", window=answers_ahead)
        options = pb.SessionOptions(
            policy=wire.policy(policy),
            edits=wire.edits(edit_list(edits)),
            variants=wire.variants(variants),
            budget=wire.budget(budget),
            output=wire.outputs(outputs),
            credits=answers_ahead,
            alignment=aligning.message(alignment),
        )
        request = pb.Open(model=model, options=options, resume_token=resume_token, last_seq=last_seq)
        self._outbox.append(pb.StreamRequest(open=request))

    # What the caller may ask.

    @property
    def finished(self) -> bool:
        """No further answer will come."""
        return self.stats is not None or self.error is not None

    @property
    def can_send(self) -> bool:
        """`send` will not exceed what may be in flight (or will say why nothing can be sent any more)."""
        if self.finished or self._closing:
            return True
        return self.opened is not None and (self._policy == "latest" or self._has_room)

    @property
    def can_take(self) -> bool:
        """`take` has an answer, or will say why none comes any more."""
        return bool(self._answers) or self.finished

    def pack(self, frame: Frame | Picture) -> pb.FrameInput:
        """The frame's message, without its seq. Raises InvalidImage, or MessageTooLarge over the server's limit."""
        return wire.frame(frame, self._frames_as, self.opened.limits if self.opened else None)

    def send(self, message: pb.FrameInput, handed_over: float, seq: int | None = None) -> int:
        """Takes a packed frame; returns its seq. The transport has waited for `can_send`.

        Raises ProtocolViolation for a `seq` that is not above all before it, and the stream's error once it broke.
        """
        self._check_usable()
        message.seq = self._next_seq(seq)
        self._sent_at[message.seq] = handed_over
        self._answers.expect(message.seq)
        if self._policy != "latest":
            self._outbox.append(pb.StreamRequest(frame=message))
            return message.seq
        if self._parked is not None:
            self._answer(Dropped(self._parked.seq, "stale", by="client"), over_wire=False)
        self._parked = message
        self._unpark()
        return message.seq

    def fail(self, error: LegatoError) -> int:
        """Counts a frame that could not even be packed: it gets a seq, and a Failed as its answer."""
        self._check_usable()
        seq = self._next_seq(None)
        self._sent_at[seq] = self._clock()
        self._answers.expect(seq)
        self._answer(Failed(seq, error.reason, str(error)), over_wire=False)
        return seq

    def update(self, changes: Changes) -> None:
        """Changes what later frames ask for."""
        self._check_usable()
        self._outbox.append(pb.StreamRequest(update=wire.update(changes, self._last_seq + 1)))

    def close(self) -> None:
        """Asks the server to end the session. What is in flight is still answered."""
        if self._closing or self.finished:
            return
        self._closing = True
        if self._parked is not None:
            self._answer(Dropped(self._parked.seq, "shutdown", by="client"), over_wire=False)
            self._parked = None
        if self._sent_at:  # let those answers pass, taken or not
            self._outbox.append(pb.StreamRequest(credit=pb.Credit(count=len(self._sent_at))))
        self._outbox.append(pb.StreamRequest(close=pb.Close()))

    def take(self) -> Answer:
        """The next answer. Raises the stream's error once it broke, SessionClosed after its end."""
        if not self._answers:
            self._raise_error()
            raise SessionClosed("the session is closed: no further answer comes")
        answer = self._answers.take()
        self._return_credit()
        return answer

    def check_opened(self) -> Opened:
        """What the server granted; raises the error that came in its place."""
        if self.opened is None:
            self._raise_error()
            raise SessionClosed("the session is not open yet")
        return self.opened

    def final_stats(self) -> SessionStats:
        """The counters that the server sent at the end; raises the error that came in their place."""
        if self.stats is None:
            self._raise_error()
            raise SessionClosed("the session is still open")
        return self.stats

    def discard(self, seqs: set[int]) -> None:
        """Throws away the answers of these frames, here or to come: their reader has gone."""
        self._answers.discard(seqs)
        self._return_credit()

    # What the transport may ask.

    @property
    def has_message(self) -> bool:
        """`next_message` has something, or will say that nothing more comes."""
        return bool(self._outbox) or self._closed_writing or self.finished

    def next_message(self) -> pb.StreamRequest | None:
        """The next message to write; None once this side has said all."""
        if self.finished or not self._outbox:
            return None
        message = self._outbox.popleft()
        self._closed_writing = message.HasField("close")
        return message

    def receive(self, response: pb.StreamResponse) -> None:
        """Takes in one message of the server."""
        kind = response.WhichOneof("message")
        if kind == "result":
            result = response.result
            self._answer(wire.read_result(result, self._clock() - self._sent_at.get(result.seq, self._clock())))
        elif kind == "dropped":
            self._answer(wire.read_dropped(response.dropped))
        elif kind == "failed":
            self._answer(wire.read_failed(response.failed))
        elif kind == "opened":
            self.opened = wire.read_opened(response.opened)
            self._granted = self.opened.credits
        elif kind == "credit":
            self._granted += response.credit.count
        elif kind == "warning":
            self._notice(wire.read_warning(response.warning))
        elif kind == "go_away":
            self._notice(wire.read_go_away(response.go_away))
        elif kind == "closed":
            for seq in sorted(self._sent_at):
                self._answer(Dropped(seq, "shutdown"), over_wire=False)
            self.stats = wire.read_stats(response.closed.stats)
        else:
            _log.warning("the server sent a message that this client does not know: is it newer?")
        self._return_credit()  # of answers that nobody wanted
        self._unpark()

    def end(self, error: LegatoError | None) -> None:
        """The stream has ended; `error` says how, None: in good order. Answers that are here can still be taken."""
        if self.finished:
            return
        if error is None:
            error = ConnectionLost("the server ended the stream before the session was closed")
        leaving = next((notice for notice in self.notices if notice.deadline_seconds is not None), None)
        if leaving and isinstance(error, ConnectionLost):
            error = ServerStopping(f"the server stopped ({leaving.reason}): open a new session", reason=leaving.reason)
        self.error = error
        self._answers.release_held()

    # Inside.

    @property
    def _has_room(self) -> bool:
        parked = self._parked is not None
        bound = min(self._granted, self._most_in_flight)
        return len(self._sent_at) - parked < bound and self._answers.held < self._most_in_flight

    def _raise_error(self) -> None:
        if self.error is not None:
            self.told = True
            raise self.error

    def _check_usable(self) -> None:
        self._raise_error()
        if self._closing or self.stats is not None:
            raise SessionClosed("the session is closed: open a new one")

    def _next_seq(self, wanted: int | None) -> int:
        seq = self._last_seq + 1 if wanted is None else wanted
        if seq <= self._last_seq:
            raise ProtocolViolation(f"seq is greater than every one before: above {self._last_seq}; got {seq}")
        self._last_seq = seq
        return seq

    def _unpark(self) -> None:
        if self._parked is not None and self._has_room:
            self._outbox.append(pb.StreamRequest(frame=self._parked))
            self._parked = None

    def _answer(self, answer: Answer, *, over_wire: bool = True) -> None:
        if self._sent_at.pop(answer.seq, None) is None:
            _log.warning("the server answered frame %d, which waits for no answer", answer.seq)
            return
        self._answers.put(answer, over_wire=over_wire)

    def _return_credit(self) -> None:
        if not (self.finished or self._closing) and (due := self._answers.credit_due()):
            self._outbox.append(pb.StreamRequest(credit=pb.Credit(count=due)))

    def _notice(self, notice: Notice) -> None:
        self.notices.append(notice)
        _log.warning("%s: %s", notice.reason, notice.message)
