"""InvertClip: a clip comes in frame by frame, waits for the engine's spare time, and goes out with its codes.

    _frames    messages -> frames, decoded as they come
    _work      the engine's own thread, by `engine.background`; what it says on the way goes through a Bulletin
    _answer    a message a frame, then done

A call takes its place in the queue before its first frame is read, so that nobody uploads a clip to be refused then.
However the call ends, the place is given back, and with it the work ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from legato.background import Place
from legato.errors import DeadlineMissed, InvalidInput, Overloaded, ProtocolViolation, ShuttingDown
from legato.metrics import Metrics
from legato.models_served import Models
from legato.options import Encoding
from legato.rpc import messages
from legato.rpc.interceptors import Context
from legato.rpc.stream import Parts
from legato.served import Served
from legato.types import ClipAnswer, ClipJob, ClipMethod, Frame, Outputs
from legato_pb import inversion_pb2 as pb

DEFAULT_METHOD = "consecutive"
MESSAGE_SECONDS = 30.0  # what a client may take to send one message, or to take one in: it holds a place meanwhile
PROGRESS_SECONDS = 0.1  # between two messages about the progress
RETRY_SECONDS = 10.0  # told to whoever is refused, while nothing better is known


class ClipDesk:
    """Serves all InvertClip calls of a server. Errors leave as LegatoError.

    Args:
        models: those of the server.
        parts_of: what the calls of a version share.
        metrics: are told how each call ended.
        max_frames, max_steps: of one clip.
    """

    def __init__(
        self,
        models: Models,
        parts_of: Callable[[Served], Parts],
        metrics: Metrics,
        *,
        max_frames: int,
        max_steps: int,
    ) -> None:
        self._models = models
        self._parts_of = parts_of
        self._metrics = metrics
        self._max_frames = max_frames
        self._max_steps = max_steps
        self._calls: set[asyncio.Task[Any]] = set()
        self._stopped = False
        self._seconds_left = RETRY_SECONDS  # of the clip that is worked on
        self._nobody = asyncio.Event()
        self._nobody.set()

    async def serve(self, context: Context) -> None:
        """One call, from its options to `done`."""
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        self._nobody.clear()
        outcome = "failed"
        try:
            await self._serve(context)
            outcome = "completed"
        except Overloaded:
            outcome = "refused"
            raise
        except grpc.aio.BaseError:  # an answer could not be written: the client has gone, and gRPC is about to say so
            outcome = "canceled"
            raise
        except asyncio.CancelledError:
            if not self._stopped:
                outcome = "canceled"
                raise
            outcome = "shutdown"
            task.uncancel()
            raise ShuttingDown(
                "the server stopped before this clip was done; send it to another one, or try again later"
            ) from None
        finally:
            self._calls.discard(task)
            if not self._calls:
                self._nobody.set()
            self._metrics.clip_inversions.labels(outcome).inc()

    async def over(self) -> None:
        """Waits until no call is left."""
        await self._nobody.wait()

    def shut_down(self) -> None:
        """Ends the calls that are left with ShuttingDown."""
        self._stopped = True
        for task in self._calls:
            task.cancel()

    async def _serve(self, context: Context) -> None:
        options = await self._options(context)
        with self._models.use(options.model) as served:
            await self._serve_by(self._parts_of(served), options, context)

    async def _serve_by(self, parts: Parts, options: pb.ClipOptions, context: Context) -> None:
        reader, clips = parts.reader, parts.engine.clips
        method = clips.method(options.method or DEFAULT_METHOD)
        if method.steps > self._max_steps:
            raise InvalidInput(
                f"a method takes at most {self._max_steps} steps on this server; {method.label!r} asks for "
                f"{method.steps}. Ask for fewer (steps=N), or raise --max-clip-steps",
                field="options.method",
            )
        edits, (outputs, encoding) = reader.rules.edits(options.edits), reader.output(options.output)
        with parts.engine.background.reserve(self._seconds_left) as place:
            frames = await self._frames(context, parts, method)
            job = ClipJob(frames, method.label, edits if outputs.edited else ())
            answer, steps = await self._work(context, parts, place, job)
            self._metrics.clip_done(answer.seconds, steps)
            await self._answer(context, parts, answer, outputs, encoding)
            done = pb.ClipDone(
                frames=len(answer.frames),
                method=method.label,
                steps=steps,
                seconds=answer.seconds,
                passes_per_frame=answer.passes_per_frame,
                model_digest=reader.model.digest,
                model_ref=parts.ref,
            )
            await _write(context, pb.InvertClipResponse(done=done))

    async def _options(self, context: Context) -> pb.ClipOptions:
        first = await _next(context)
        if first is None or first.WhichOneof("message") != "options":
            got = "none" if first is None else first.WhichOneof("message") or "an empty message"
            raise ProtocolViolation(f"the first message of a clip is its options; got {got}", reason="NO_OPTIONS")
        options: pb.ClipOptions = first.options
        return options

    async def _frames(self, context: Context, parts: Parts, method: ClipMethod) -> tuple[Frame, ...]:
        """All frames, decoded; raises InvalidInput for the first that cannot be part of the clip."""
        frames: list[Frame] = []
        first_size: tuple[int, int] | None = None
        while (message := await _next(context)) is not None:
            index = len(frames)
            if message.WhichOneof("message") != "frame":
                got = message.WhichOneof("message") or "an empty message"
                raise ProtocolViolation(f"after the options of a clip come its frames alone; got {got}")
            if index == self._max_frames:
                raise InvalidInput(
                    f"a clip has at most {self._max_frames} frames on this server; got more. Send it in parts, or "
                    "raise --max-clip-frames",
                    reason="CLIP_TOO_LONG",
                    field=f"frames[{index}]",
                )
            frame, size = await _in_thread(parts, _frame, parts.reader, index, message.frame)
            first_size = first_size or size
            if method.compares and size != first_size:
                raise InvalidInput(
                    f"the frames of a clip are of one size; the first is {_by(first_size)}, frame {index} is "
                    f"{_by(size)}. Scale them alike; photos in no order go with the method 'consecutive:ordered=false'",
                    reason="MIXED_SIZES",
                    field=f"frames[{index}]",
                )
            frames.append(frame)
        if not frames:
            raise InvalidInput("a clip has at least one frame; got none", field="frames")
        return tuple(frames)

    async def _work(self, context: Context, parts: Parts, place: Place, job: ClipJob) -> tuple[ClipAnswer, int]:
        """The engine's answer and the steps that it took; the client is told of the way there."""
        bulletin = Bulletin()
        clips = parts.engine.clips
        began, taken = time.monotonic(), 0

        def step(done: int, total: int) -> None:  # on the engine's thread, as all three
            nonlocal taken
            taken = done
            seconds = time.monotonic() - began
            self._seconds_left = max(1.0, seconds / done * (total - done))
            progress = pb.ClipProgress(step=done, steps=total, seconds=seconds, seconds_left=self._seconds_left)
            bulletin.put(pb.InvertClipResponse(progress=progress))

        def work(pause: Any) -> ClipAnswer:
            nonlocal began
            began = time.monotonic()
            return clips.invert(dataclasses.replace(job, on_step=step), pause)

        def moved(ahead: int) -> None:
            bulletin.put(pb.InvertClipResponse(queued=pb.ClipQueued(ahead=ahead)))

        future = place.submit(work, moved)
        future.add_done_callback(lambda done: bulletin.end())
        async for news in bulletin:
            await _write(context, news)
        answer: ClipAnswer = future.result()
        return answer, taken

    async def _answer(
        self, context: Context, parts: Parts, answer: ClipAnswer, outputs: Outputs, encoding: Encoding
    ) -> None:
        rebuilt = answer.reconstruction if outputs.reconstruction else None
        edited = answer.edited if outputs.edited else None
        for row, index in enumerate(answer.frames):
            pictures = [
                await _in_thread(parts, messages.image, None if pixels is None else pixels[row], encoding)
                for pixels in (rebuilt, edited)
            ]
            frame = pb.ClipFrame(
                index=index,
                reconstruction=pictures[0],
                edited=pictures[1],
                latents=messages.latents(answer.latents[row] if outputs.latents else None),
                quality=messages.quality(answer.psnr_db[row]),
            )
            await _write(context, pb.InvertClipResponse(frame=frame))


class Bulletin:
    """The latest word from another thread; `async for` gives what is new, and passes over what is old by then."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._latest: pb.InvertClipResponse | None = None
        self._over = False
        self._changed = asyncio.Event()

    def put(self, news: pb.InvertClipResponse) -> None:
        """Any thread. The loop may have ended: nobody reads then."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._set, news, False)

    def end(self) -> None:
        """Nothing follows. Any thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._set, None, True)

    def _set(self, news: pb.InvertClipResponse | None, over: bool) -> None:
        self._latest, self._over = news or self._latest, over
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[pb.InvertClipResponse]:
        while not self._over or self._latest is not None:
            await self._changed.wait()
            self._changed.clear()
            news, self._latest = self._latest, None
            if news is not None:
                yield news
                if not self._over:
                    await asyncio.sleep(PROGRESS_SECONDS)


async def _next(context: Context) -> Any:
    """The client's next message; None at the end of its messages."""
    try:
        message = await asyncio.wait_for(context.read(), MESSAGE_SECONDS)
    except TimeoutError:
        raise DeadlineMissed(
            f"no message of this clip for {MESSAGE_SECONDS:g} s; send its frames without a break, then end the requests"
        ) from None
    return None if message is grpc.aio.EOF else message


async def _write(context: Context, message: pb.InvertClipResponse) -> None:
    try:
        await asyncio.wait_for(context.write(message), MESSAGE_SECONDS)
    except TimeoutError:
        raise DeadlineMissed(
            f"an answer of this clip was not taken for {MESSAGE_SECONDS:g} s; read the answers as they come"
        ) from None


def _in_thread(parts: Parts, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
    return asyncio.get_running_loop().run_in_executor(parts.threads, function, *arguments)


def _frame(reader: messages.Reader, index: int, image: pb.Image) -> tuple[Frame, tuple[int, int]]:
    """A frame and its (width, height) as it was sent; on a codec's thread."""
    try:
        return reader.frame(image), reader.size(image)
    except InvalidInput as error:
        field = f"frames[{index}]" + (error.field or "").removeprefix("image")
        raise type(error)(f"frame {index}: {error}", reason=error.reason, field=field) from None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
