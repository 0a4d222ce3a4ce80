"""One stream: three tasks between a client's messages and a session.

    _read   messages into the session
    _feed   session.take -> decode (codec threads, but for small images) -> engine.submit
    _send   session.next_answer -> encode (codec threads) -> message to the client

The engine answers from its own thread; `call_soon_threadsafe` brings the answer back to the event loop, where the
session lives. Each task handles one frame at a time, so frames stay in order while decoding, the engine and encoding
overlap. An exception of any task ends the stream with that error; whatever happens, the session is left consistent.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from legato.alignment import FaceFinder
from legato.errors import DeadlineMissed, InvalidInput, LegatoError, Overloaded, ProtocolViolation, ShuttingDown
from legato.metrics import Metrics
from legato.options import Change, DropReason, Policy
from legato.rpc import aligning, messages
from legato.rpc.interceptors import Context, unexpected
from legato.session import Session
from legato.types import Flow, Frame, FrameAnswer, FrameJob
from legato.work import Failed, Outcome, Work
from legato_pb import inversion_pb2 as pb

if TYPE_CHECKING:
    from legato.engine import Engine

ABORT_FOLLOWS_EOF_SECONDS = 0.005  # gRPC reports a client's death as an end of its messages, and cancels right after
QUEUE_RETRY_SECONDS = 0.005
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What all streams of a version of a model share."""

    engine: Engine
    reader: messages.Reader
    ref: pb.ModelRef  # of the model, for every result
    metrics: Metrics
    threads: Executor  # for image codecs
    deadline_seconds: float
    faces: FaceFinder


class SessionStream:
    """Serves one session over one gRPC stream. `over` is set when it has ended, in whatever way."""

    def __init__(self, parts: Parts, session: Session, context: Context) -> None:
        self.session = session
        self.over = asyncio.Event()
        self.parts = parts
        self._context = context
        self._notices: deque[pb.StreamResponse] = deque()
        self._last_word: LegatoError | None = None  # ends the stream once all is told
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._input_ended = False
        self._may_feed = asyncio.Event()
        self._may_send = asyncio.Event()

    async def resume(self, last_seq: int, answers_wanted: float) -> None:
        """Takes up a session that had another stream, once the engine has settled what it had begun for that one.

        Raises InvalidInput for a last_seq that the session never saw.
        """
        self.session.wake = self._wake
        while self.session.in_flight:
            self._may_feed.clear()
            await self._may_feed.wait()
        self.session.attach(last_seq, answers_wanted)

    async def run(self, greeting: pb.StreamResponse) -> None:
        """Sends `greeting`, then serves until the session is closed, the client is gone, or `stop` or `shut_down`.

        Raises what those were given, ProtocolViolation for a message out of place, Overloaded for answers not taken.
        """
        self.session.wake = self._wake
        tasks: set[asyncio.Future[None]] = {self._stopped}
        try:
            # gRPC sends the call's first metadata with the first message: until that is out, the call cannot be ended.
            await self._context.write(greeting)
            sender = asyncio.create_task(self._send())
            tasks |= {sender, asyncio.create_task(self._read()), asyncio.create_task(self._feed())}
            running = tasks
            while not sender.done():
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._leave()

    def go_away(self, deadline_seconds: float, reason: str) -> None:
        """Tells the client that the stream will end."""
        self._notices.append(pb.StreamResponse(go_away=pb.GoAway(deadline_seconds=deadline_seconds, reason=reason)))
        self._wake()

    def shut_down(self, error: LegatoError) -> None:
        """Ends the stream with `error`, after telling the client of every frame that will not be answered."""
        self._last_word = error
        self.session.drop_all(DropReason.SHUTDOWN)
        self.session.grant(math.inf)

    def stop(self, error: LegatoError) -> None:
        """Ends the stream with `error`, now; the client may be one that reads no more."""
        if not self._stopped.done():
            self._stopped.set_exception(error)

    def close(self) -> None:
        """Ends the session in good order, as if the client had said close."""
        self.session.closing = True
        self.session.grant(math.inf)

    def _wake(self) -> None:
        self._may_feed.set()
        self._may_send.set()

    def _leave(self) -> None:
        """Frees what the engine need not do any more."""
        session, engine = self.session, self.parts.engine
        for work in session.detach():
            if engine.cancel(session.slot, work.seq):
                session.settle(work, DropReason.DISCONNECTED)
        self.over.set()

    async def _read(self) -> None:
        while (message := await self._context.read()) is not grpc.aio.EOF:
            self._take_in(message)
        await asyncio.sleep(ABORT_FOLLOWS_EOF_SECONDS)
        self._input_ended = True
        self.session.grant(math.inf)  # nobody is left to grant credits

    def _take_in(self, message: pb.StreamRequest) -> None:
        kind = message.WhichOneof("message")
        if kind == "frame":
            self._take_frame(message.frame)
        elif kind == "update":
            try:
                self.session.update(self.parts.reader.change(message.update))
            except LegatoError as error:
                self._warn(error.reason, f"update refused: {error}")
        elif kind == "credit":
            self.session.grant(message.credit.count)
        elif kind == "close":
            self.session.closing = True
            self._wake()
        elif kind == "open":
            raise ProtocolViolation(
                "this stream is open already; one stream serves one session, open another stream for another session",
                reason="ALREADY_OPEN",
            )
        else:
            self._warn("UNKNOWN_MESSAGE", "a message of a kind that this server does not know was passed over")

    def _take_frame(self, frame: pb.FrameInput) -> None:
        arrival = time.monotonic()
        try:
            rules = self.parts.reader.rules
            edits = rules.edits(frame.edits.edits) if frame.HasField("edits") else None
            variants = rules.variants(frame.variants.variants) if frame.HasField("variants") else None
            if not math.isfinite(frame.capture_time):
                raise InvalidInput(f"capture_time is finite; got {frame.capture_time}", field="frame.capture_time")
        except LegatoError as error:
            self.session.fail(frame.seq, error, arrival)
            return
        own = Change(edits=edits, variants=variants)
        self.session.receive(frame.seq, frame, arrival, capture_time=frame.capture_time, own=own)
        for work in self.session.passed_over():
            if self.parts.engine.cancel(self.session.slot, work.seq):
                self.session.settle(work, DropReason.STALE)

    def _warn(self, reason: str, message: str) -> None:
        self._notices.append(pb.StreamResponse(warning=pb.Warning(reason=reason, message=message)))
        self._wake()

    async def _feed(self) -> None:
        while True:
            self._may_feed.clear()
            work = self.session.take()
            if work is None:
                await self._may_feed.wait()
                continue
            try:
                todo = (work, work.payload)
                quick = self.session.aligner is None and self.parts.reader.is_small(work.payload.image)
                await self._submit(work, self._decode(*todo) if quick else await self._in_thread(self._decode, *todo))
            except Exception as error:
                self.session.settle(work, _failure(error))

    def _decode(self, work: Work, request: pb.FrameInput) -> FrameJob:
        start, reader = time.perf_counter(), self.parts.reader
        flow = reader.flow(request.flow) if request.HasField("flow") else None
        frame = aligning.frame(reader, self.session.aligner, request, work)
        work.decode_seconds = time.perf_counter() - start
        return self._job(work, frame, flow)

    def _job(self, work: Work, frame: Frame, flow: Flow | None) -> FrameJob:
        asked = work.settings
        deadline = asked.budget.deadline_seconds
        return FrameJob(
            slot=self.session.slot,
            seq=work.seq,
            frame=frame,
            edits=asked.edits,
            outputs=asked.outputs,
            variants=tuple(variant.edits for variant in asked.variants),
            max_steps=asked.budget.max_steps,
            window_steps=asked.budget.window_steps,
            arrival=work.arrival,
            deadline=work.arrival + deadline if deadline else math.inf,
            flow=flow,
            droppable=self.session.policy is Policy.LATEST,
        )

    async def _submit(self, work: Work, job: FrameJob) -> None:
        """Hands the job to the engine; waits while its queue is full, unless a newer frame makes this one stale."""
        loop, session = asyncio.get_running_loop(), self.session

        def done(result: FrameAnswer | LegatoError) -> None:  # on the engine's thread
            loop.call_soon_threadsafe(
                session.settle, work, result if isinstance(result, FrameAnswer) else _failure(result)
            )

        while work.outcome is None:
            try:
                work.submitted = True
                self.parts.engine.submit(job, done)
                return
            except Overloaded:
                work.submitted = False
            if session.policy is Policy.LATEST and session.newer_waits:
                session.settle(work, DropReason.STALE)
                return
            await asyncio.sleep(QUEUE_RETRY_SECONDS)

    async def _send(self) -> None:
        session = self.session
        while True:
            self._may_send.clear()
            if self._notices:
                await self._context.write(self._notices.popleft())
            elif (work := session.next_answer()) is not None:
                self._may_feed.set()
                await self._context.write(await self._answer(work))
            elif self._last_word is not None:
                raise self._last_word
            elif session.finished and (session.closing or self._input_ended):
                break
            else:
                await self._may_send.wait()
        if session.closing:
            closed = pb.Closed(stats=messages.stats(session.stats))
            await self._context.write(pb.StreamResponse(closed=closed))

    async def _answer(self, work: Work) -> pb.StreamResponse:
        outcome = work.outcome
        if isinstance(outcome, FrameAnswer):
            try:
                result = await self._in_thread(messages.result, work, outcome, self.parts.ref)
            except Exception as error:
                outcome = _failure(error)
            else:
                wanted = work.settings.budget.deadline_seconds or self.parts.deadline_seconds
                stages = {timing.stage: timing.seconds for timing in result.timings}
                self.parts.metrics.answered(result.server_seconds, wanted, stages)
                return pb.StreamResponse(result=result)
        if isinstance(outcome, Failed):
            return pb.StreamResponse(
                failed=pb.FrameFailed(seq=work.seq, reason=outcome.reason, message=outcome.message)
            )
        assert isinstance(outcome, DropReason)
        return pb.StreamResponse(dropped=pb.Dropped(seq=work.seq, reason=messages.WIRE_DROPS[outcome]))

    def _in_thread(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self.parts.threads, function, *arguments)


def _failure(error: BaseException) -> Outcome:
    """How a frame that met this error is answered."""
    if isinstance(error, DeadlineMissed):
        return DropReason.DEADLINE
    if isinstance(error, ShuttingDown):
        return DropReason.SHUTDOWN
    if not isinstance(error, LegatoError):
        error = unexpected(error, "a frame")
    return Failed(error.reason, str(error))
