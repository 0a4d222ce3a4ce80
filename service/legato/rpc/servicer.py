"""The calls of legato.v1.InversionService: what each one asks of the session store and the engine."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from legato.errors import LegatoError, ProtocolViolation, ShuttingDown
from legato.rpc import messages
from legato.rpc.clip import ClipDesk
from legato.rpc.interceptors import Context
from legato.rpc.stream import Parts, SessionStream
from legato.session import Session
from legato.store import Entry, SessionStore
from legato.types import FrameAnswer, FrameJob
from legato_pb import inversion_pb2 as pb
from legato_pb import inversion_pb2_grpc

CLOSE_SECONDS = 5.0  # what a stream has to answer its frames after CloseSession

log = logging.getLogger(__name__)


class Servicer(inversion_pb2_grpc.InversionServiceServicer):
    """Errors leave as LegatoError; the interceptor makes statuses of them. `draining` refuses new sessions."""

    def __init__(
        self,
        parts: Parts,
        store: SessionStore[SessionStream],
        clips: ClipDesk,
        *,
        credits: int,
        resume_seconds: float,
    ) -> None:
        self.draining = False
        self._clips = clips
        self._parts = parts
        self._store = store
        self._credits = credits
        self._limits = messages.limits(parts.reader, resume_seconds)
        self._calls = itertools.count()

    async def Stream(  # type: ignore[override]  # reads and writes through its context, at the same time
        self, request_iterator: AsyncIterator[pb.StreamRequest], context: Context
    ) -> None:
        """Opens or resumes a session and serves it until it is closed or the stream is cut; then it may be resumed."""
        first: Any = await context.read()
        if first is grpc.aio.EOF:
            return
        if first.WhichOneof("message") != "open":
            got = first.WhichOneof("message") or "an empty message"
            raise ProtocolViolation(f"the first message of a stream is open; got {got}", reason="NOT_OPEN")
        if self.draining:
            raise ShuttingDown("the server is stopping; open the session on another one, or try again later")
        entry, token = await (self._resume if first.open.resume_token else self._open)(first.open, context)
        stream, session = entry.stream, entry.session
        assert stream is not None
        opened = pb.Opened(
            session_id=session.id,
            resume_token=token,
            limits=self._limits,
            model=messages.model(self._parts.engine.model),
            credits=self._credits,
        )
        try:
            await stream.run(pb.StreamResponse(opened=opened))
        finally:
            self._leave(entry)

    async def _open(self, request: pb.Open, context: Context) -> tuple[Entry[SessionStream], str]:
        reader = self._parts.reader
        reader.check_model(request.model)
        policy, settings = reader.policy(request.options.policy), reader.settings(request.options)

        def make(id: str, slot: int) -> Session:
            return Session(
                id=id,
                slot=slot,
                model=reader.model.name,
                policy=policy,
                settings=settings,
                credits=self._credits,
                observer=self._parts.metrics,
            )

        entry, token = self._store.open(make)
        entry.session.attach(0, request.options.credits or math.inf)
        entry.stream = SessionStream(self._parts, entry.session, context)
        log.info("session opened", extra={"fields": {"session": entry.session.id, "policy": policy.value}})
        return entry, token

    async def _resume(self, request: pb.Open, context: Context) -> tuple[Entry[SessionStream], str]:
        """Takes a session over from the stream that had it, if any; its own options hold, but for the credits."""
        self._parts.reader.check_model(request.model)
        while (old := (entry := self._store.find(request.resume_token)).stream) is not None:
            old.stop(ProtocolViolation("another stream resumed this session", reason="SESSION_TAKEN_OVER"))
            await old.over.wait()
            await asyncio.sleep(0)  # the old call lets its session go
        entry.stream = SessionStream(self._parts, entry.session, context)
        try:
            await entry.stream.resume(request.last_seq, request.options.credits or math.inf)
        except BaseException:
            entry.session.detach()
            self._leave(entry)
            raise
        self._parts.metrics.session_resumes.inc()
        log.info("session resumed", extra={"fields": {"session": entry.session.id, "last_seq": request.last_seq}})
        return entry, request.resume_token

    def _leave(self, entry: Entry[SessionStream]) -> None:
        session = entry.session
        if session.closing:
            self._store.close(entry, "closed")
        self._store.detach(entry)
        event = "session closed" if session.closing else "stream ended, session kept"
        counters = {"received": session.stats.received, "completed": session.stats.completed}
        log.info(event, extra={"fields": {"session": session.id, **counters}})

    async def Invert(self, request: pb.InvertRequest, context: Context) -> pb.InvertResponse:
        """One image, without a session: its latents are nobody's afterwards."""
        reader = self._parts.reader
        reader.check_model(request.model)
        edits, steps = reader.rules.edits(request.edits), reader.steps(request.steps, "steps")
        variants = reader.rules.variants(request.variants)
        outputs, encoding = reader.output(request.output)
        frame = await self._in_thread(reader.frame, request.image)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[FrameAnswer] = loop.create_future()
        job = FrameJob(
            slot=-1,
            seq=next(self._calls),
            frame=frame,
            edits=edits,
            outputs=outputs,
            variants=tuple(variant.edits for variant in variants),
            max_steps=steps,
            arrival=time.monotonic(),
        )

        def done(result: FrameAnswer | LegatoError) -> None:  # on the engine's thread
            loop.call_soon_threadsafe(_set, answered, result)

        self._parts.engine.submit(job, done)
        try:
            answer = await answered
        except asyncio.CancelledError:
            self._parts.engine.cancel(job.slot, job.seq)
            raise
        return pb.InvertResponse(
            reconstruction=await self._in_thread(messages.image, answer.reconstruction, encoding),
            edited=await self._in_thread(messages.image, answer.edited, encoding),
            variants=await self._in_thread(messages.variant_images, variants, answer.variants, encoding),
            latents=messages.latents(answer.latents),
            quality=messages.quality(answer.psnr_db),
            model_digest=reader.model.digest,
        )

    async def InvertClip(  # type: ignore[override]  # as Stream
        self, request_iterator: AsyncIterator[pb.InvertClipRequest], context: Context
    ) -> None:
        """A whole clip, offline, while no frame of a stream waits."""
        if self.draining:
            raise ShuttingDown("the server is stopping; send the clip to another one, or try again later")
        await self._clips.serve(context)

    async def Synthesize(self, request: pb.SynthesizeRequest, context: Context) -> pb.SynthesizeResponse:
        """The image of given latents, or of those that a seed draws."""
        reader = self._parts.reader
        reader.check_model(request.model)
        outputs, encoding = reader.output(request.output)
        future = self._parts.engine.synthesize(
            reader.latents(request.latents) if request.HasField("latents") else None,
            seed=request.seed,
            truncation=reader.truncation(request.truncation),
            edits=reader.rules.edits(request.edits),
        )
        made = await asyncio.wrap_future(future)
        return pb.SynthesizeResponse(
            image=await self._in_thread(messages.image, made.image, encoding),
            latents=messages.latents(made.latents) if outputs.latents else None,
            model_digest=reader.model.digest,
        )

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """The one model of this server."""
        return pb.ListModelsResponse(models=[messages.model(self._parts.engine.model)])

    async def ListDirections(self, request: pb.ListDirectionsRequest, context: Context) -> pb.ListDirectionsResponse:
        """The model's named directions, with what was measured of each."""
        self._parts.reader.check_model(request.model)
        return pb.ListDirectionsResponse(directions=messages.directions(self._parts.engine.directions))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        """State and counters of a session."""
        entry = self._store.find(request.resume_token)
        return messages.session(entry.session, streaming=entry.stream is not None)

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        """Ends a session. A stream that serves it answers what it has and says closed."""
        entry = self._store.find(request.resume_token)
        entry.session.closing = True
        if (stream := entry.stream) is not None:
            stream.close()
            try:
                await asyncio.wait_for(stream.over.wait(), CLOSE_SECONDS)
            except TimeoutError:
                stream.stop(ProtocolViolation("the session was closed by CloseSession", reason="SESSION_CLOSED"))
                await stream.over.wait()
        self._store.close(entry, "closed")
        return pb.CloseSessionResponse(stats=messages.stats(entry.session.stats))

    def _in_thread(self, function: Any, *arguments: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._parts.threads, function, *arguments)


def _set(future: asyncio.Future[FrameAnswer], result: FrameAnswer | LegatoError) -> None:
    if future.done():  # the caller has gone
        return
    if isinstance(result, FrameAnswer):
        future.set_result(result)
    else:
        future.set_exception(result)
