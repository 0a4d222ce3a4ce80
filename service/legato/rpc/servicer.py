"""The calls of legato.v1.InversionService: what each one asks of the session store and the engine."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc

from legato.errors import LegatoError, NotFound, ProtocolViolation, ShuttingDown
from legato.models_served import Models
from legato.rpc import aligning, messages
from legato.rpc.clip import ClipDesk
from legato.rpc.control import ModelControl
from legato.rpc.interceptors import Context
from legato.rpc.stream import Parts, SessionStream
from legato.served import Served
from legato.session import Session
from legato.store import Entry, SessionStore
from legato.threads import PassingThread
from legato.types import FrameAnswer, FrameJob
from legato_pb import inversion_pb2 as pb
from legato_pb import inversion_pb2_grpc

if TYPE_CHECKING:
    from legato.models.generator import Generator

CLOSE_SECONDS = 5.0  # what a stream has to answer its frames after CloseSession

log = logging.getLogger(__name__)


class Servicer(inversion_pb2_grpc.InversionServiceServicer):
    """Errors leave as LegatoError; the interceptor makes statuses of them. `draining` refuses new sessions."""

    def __init__(
        self,
        models: Models,
        parts_of: Callable[[Served], Parts],
        store: SessionStore[SessionStream],
        clips: ClipDesk,
        control: ModelControl,
        *,
        credits: int,
        resume_seconds: float,
    ) -> None:
        self.draining = False
        self._models = models
        self._parts_of = parts_of
        self._store = store
        self._clips = clips
        self._control = control
        self._credits = credits
        self._resume_seconds = resume_seconds
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
        self._check_serving("open the session on another one")
        entry, token = await (self._resume if first.open.resume_token else self._open)(first.open, context)
        stream, session = entry.stream, entry.session
        assert stream is not None
        opened = pb.Opened(
            session_id=session.id,
            resume_token=token,
            limits=messages.limits(stream.parts.reader, self._resume_seconds),
            model=messages.model(stream.parts.reader.model),
            credits=self._credits,
        )
        try:
            await stream.run(pb.StreamResponse(opened=opened))
        finally:
            self._leave(entry)

    async def _open(self, request: pb.Open, context: Context) -> tuple[Entry[SessionStream], str]:
        base, _, delta = request.model.partition("+")
        with self._models.use(base) as served:
            load = served.engine.deltas.load
            tuned = await asyncio.wrap_future(PassingThread().submit(load, delta)) if delta else None
            return self._open_on(served, request, context, delta, tuned)

    def _open_on(
        self, served: Served, request: pb.Open, context: Context, delta: str, tuned: Generator | None
    ) -> tuple[Entry[SessionStream], str]:
        parts = self._parts_of(served)
        reader = parts.reader
        policy, settings = reader.policy(request.options.policy), reader.settings(request.options)
        aligner = aligning.aligner(parts.faces, request.options)

        def make(id: str, slot: int) -> Session:
            return Session(
                id=id,
                slot=slot,
                model=f"{reader.model.name}+{delta}" if delta else reader.model.name,
                policy=policy,
                settings=settings,
                credits=self._credits,
                observer=parts.metrics,
                aligner=aligner,
            )

        entry, token = self._store.open(served, make)
        if tuned is not None:
            served.engine.deltas.give(entry.session.slot, delta, tuned)
            parts = _tuned(parts, entry.session.slot)
        entry.session.attach(0, request.options.credits or math.inf)
        entry.stream = SessionStream(parts, entry.session, context)
        fields = {"session": entry.session.id, "policy": policy.value, "model": served.source.label}
        log.info("session opened", extra={"fields": fields})
        return entry, token

    async def _resume(self, request: pb.Open, context: Context) -> tuple[Entry[SessionStream], str]:
        """Takes a session over from the stream that had it, if any; its own options hold, but for the credits."""
        while (old := (entry := self._store.find(request.resume_token)).stream) is not None:
            old.stop(ProtocolViolation("another stream resumed this session", reason="SESSION_TAKEN_OVER"))
            await old.over.wait()
            await asyncio.sleep(0)  # the old call lets its session go
        served = _served(entry)
        if request.model.partition("+")[0] not in ("", served.source.name, served.source.label):
            raise NotFound(
                f"this session is one of {served.source.label!r}; got model {request.model[:100]!r}. Leave it empty, "
                "or open a new session",
                reason="MODEL_NOT_FOUND",
            )
        parts = _tuned(self._parts_of(served), entry.session.slot)
        entry.stream = SessionStream(parts, entry.session, context)
        try:
            await entry.stream.resume(request.last_seq, request.options.credits or math.inf)
        except BaseException:
            entry.session.detach()
            self._leave(entry)
            raise
        parts.metrics.session_resumes.inc()
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
        with self._models.use(request.model) as served:
            parts = self._parts_of(served)
            reader = parts.reader
            edits, steps = reader.rules.edits(request.edits), reader.steps(request.steps, "steps")
            variants = reader.rules.variants(request.variants)
            outputs, encoding = reader.output(request.output)
            frame = await _in_thread(parts, reader.frame, request.image)
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
            answer = await _answer(parts, job)
            return pb.InvertResponse(
                reconstruction=await _in_thread(parts, messages.image, answer.reconstruction, encoding),
                edited=await _in_thread(parts, messages.image, answer.edited, encoding),
                variants=await _in_thread(parts, messages.variant_images, variants, answer.variants, encoding),
                latents=messages.latents(answer.latents),
                quality=messages.quality(answer.psnr_db),
                model_digest=parts.ref.digest,
                model_ref=parts.ref,
            )

    async def InvertClip(  # type: ignore[override]  # as Stream
        self, request_iterator: AsyncIterator[pb.InvertClipRequest], context: Context
    ) -> None:
        """A whole clip, offline, while no frame of a stream waits."""
        self._check_serving("send the clip to another one")
        await self._clips.serve(context)

    async def Synthesize(self, request: pb.SynthesizeRequest, context: Context) -> pb.SynthesizeResponse:
        """The image of given latents, or of those that a seed draws."""
        with self._models.use(request.model) as served:
            parts = self._parts_of(served)
            reader = parts.reader
            outputs, encoding = reader.output(request.output)
            future = parts.engine.synthesize(
                reader.latents(request.latents) if request.HasField("latents") else None,
                seed=request.seed,
                truncation=reader.truncation(request.truncation),
                edits=reader.rules.edits(request.edits),
            )
            made = await asyncio.wrap_future(future)
            return pb.SynthesizeResponse(
                image=await _in_thread(parts, messages.image, made.image, encoding),
                latents=messages.latents(made.latents) if outputs.latents else None,
                model_digest=parts.ref.digest,
                model_ref=parts.ref,
            )

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Models and versions, what became of each, and who uses it."""
        return await self._control.models(unloaded=request.unloaded)

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:
        """Loads a version; where it can be served, its name opens it from then on."""
        self._check_serving("load the model on another one")
        return await self._control.load(request)

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        """Takes a model out of service."""
        return await self._control.unload(request)

    async def ListDirections(self, request: pb.ListDirectionsRequest, context: Context) -> pb.ListDirectionsResponse:
        """A model's named directions, with what was measured of each."""
        with self._models.use(request.model) as served:
            return pb.ListDirectionsResponse(directions=messages.directions(served.engine.directions))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        """State and counters of a session."""
        entry = self._store.find(request.resume_token)
        ref = messages.model_ref(_served(entry).engine.model)
        return messages.session(entry.session, streaming=entry.stream is not None, ref=ref)

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

    def _check_serving(self, instead: str) -> None:
        if self.draining:
            raise ShuttingDown(f"the server is stopping; {instead}, or try again later")


def _served(entry: Entry[SessionStream]) -> Served:
    """The version that a session was opened with."""
    assert isinstance(entry.slots, Served)
    return entry.slots


async def _answer(parts: Parts, job: FrameJob) -> FrameAnswer:
    """The engine's answer to a frame of nobody's; it is taken back where the caller leaves."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[FrameAnswer] = loop.create_future()

    def done(result: FrameAnswer | LegatoError) -> None:  # on the engine's thread
        loop.call_soon_threadsafe(_set, answered, result)

    parts.engine.submit(job, done)
    try:
        return await answered
    except asyncio.CancelledError:
        parts.engine.cancel(job.slot, job.seq)
        raise


def _in_thread(parts: Parts, function: Any, *arguments: Any) -> asyncio.Future[Any]:
    return asyncio.get_running_loop().run_in_executor(parts.threads, function, *arguments)


def _set(future: asyncio.Future[FrameAnswer], result: FrameAnswer | LegatoError) -> None:
    if future.done():  # the caller has gone
        return
    if isinstance(result, FrameAnswer):
        future.set_result(result)
    else:
        future.set_exception(result)


def _tuned(parts: Parts, slot: int) -> Parts:
    """For a session whose slot has weights of its own: its results tell whose."""
    model = parts.engine.deltas.model(slot)
    if model is parts.engine.model:
        return parts
    return replace(parts, reader=replace(parts.reader, model=model), ref=messages.model_ref(model))
