"""The client for asyncio: the same protocol and calls as `client` and `session`, awaited."""
# ruff: noqa: ASYNC109 - a timeout is a parameter here because it is one in `Client` and `Session`

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from legato_client import calls
from legato_client.channel import DEFAULT_ADDRESS, OPTIONS
from legato_client.errors import Cancelled, DeadlineMissed, LegatoError, from_rpc
from legato_client.feed import Feed
from legato_client.images import Picture
from legato_client.protocol import StreamProtocol
from legato_client.session import CLOSE_SECONDS, SessionFacts
from legato_client.types import (
    Answer,
    Budget,
    Direction,
    Edits,
    Frame,
    Inversion,
    ModelInfo,
    Outputs,
    SessionOptions,
    SessionState,
    SessionStats,
    Synthesis,
)
from legato_pb import inversion_pb2 as pb
from legato_pb.inversion_pb2_grpc import InversionServiceAsyncStub, InversionServiceStub

T = TypeVar("T")


class AsyncSession(SessionFacts):
    """One stream, and its state on the server. Made by `AsyncClient.open`; every method is that of `Session`, awaited.

    `send` and `recv` may run in two tasks; `stream` does both.
    """

    def __init__(self, stub: InversionServiceAsyncStub, protocol: StreamProtocol, address: str) -> None:
        self._protocol, self._address = protocol, address
        self._changed = asyncio.Event()
        self._call = stub.Stream(self._requests())
        self._reader = asyncio.create_task(self._read(), name="legato-session")

    async def stream(self, frames: AsyncIterable[Frame | Picture] | Iterable[Frame | Picture]) -> AsyncIterator[Answer]:
        """Sends the frames from a task of its own and yields one answer for each: FrameResult, Dropped or Failed.

        As `Session.stream`. A plain iterable is walked in the event loop: it must not block.
        """
        feed = Feed()
        feeder = asyncio.create_task(self._feed(frames, feed), name="legato-feed")
        try:
            while True:
                await self._until(lambda: feed.finished or self._protocol.can_take)
                if feed.finished and not self._protocol.can_take:
                    break
                answer = self._protocol.take()
                feed.unanswered.discard(answer.seq)
                self._notify()
                yield answer
            if feed.error:
                raise feed.error
        finally:
            feeder.cancel()
            self._protocol.discard(feed.unanswered)
            self._notify()

    async def send(self, frame: Frame | Picture, *, seq: int | None = None, timeout: float | None = None) -> int:
        """Sends one frame and returns its seq; see `Session.send`."""
        begun = time.monotonic()
        message = self._protocol.pack(frame)
        await self._until(
            lambda: self._protocol.can_send, timeout, "left no room for a further frame; take some answers"
        )
        sent = self._protocol.send(message, begun, seq)
        self._notify()
        return sent

    async def recv(self, *, timeout: float | None = None) -> Answer:
        """The next answer; see `Session.recv`."""
        await self._until(lambda: self._protocol.can_take, timeout, "gave no answer")
        answer = self._protocol.take()
        self._notify()
        return answer

    async def update(
        self,
        *,
        edits: Edits | None = None,
        budget: Budget | None = None,
        outputs: Outputs | None = None,
        from_seq: int = 0,
    ) -> None:
        """Changes what later frames ask for: from the next frame on, or from `from_seq`."""
        self._protocol.update(edits, budget, outputs, from_seq)
        self._notify()

    async def close(self, *, timeout: float = CLOSE_SECONDS) -> SessionStats:
        """Ends the session, after the answers of all frames in flight; see `Session.close`."""
        self._protocol.close()
        self._notify()
        try:
            await self._until(lambda: self._protocol.finished, timeout, "did not close the session")
        except BaseException:
            await self.cancel()
            raise
        return self._protocol.final_stats()

    async def cancel(self) -> None:
        """Cuts the stream. The server keeps the session's state for `limits.resume_seconds`."""
        self._protocol.end(Cancelled("the session was canceled by this client"))
        self._notify()
        self._call.cancel()
        await self._reader

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._protocol.told:
            await self.close()
        else:
            await self.cancel()

    async def _opening(self, timeout: float) -> Self:
        try:
            await self._until(
                lambda: self._protocol.opened or self._protocol.finished, timeout, "did not open the session"
            )
            self._protocol.check_opened()
        except BaseException:
            await self.cancel()
            raise
        return self

    def _notify(self) -> None:
        """Wakes everyone who waits; each looks again whether it was for him."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, ready: Callable[[], object], timeout: float | None = None, complaint: str = "") -> None:
        try:
            async with asyncio.timeout(timeout):
                while not ready():
                    await self._changed.wait()
        except TimeoutError:
            raise DeadlineMissed(f"{self._address} {complaint} within {timeout:g} s") from None

    async def _requests(self) -> AsyncIterator[pb.StreamRequest]:
        while True:
            await self._until(lambda: self._protocol.has_message)
            message = self._protocol.next_message()
            if message is None:
                return
            yield message

    async def _read(self) -> None:
        error: LegatoError | None = None
        try:
            async for response in self._call:
                self._protocol.receive(response)
                self._notify()
        except grpc.RpcError as failure:
            error = from_rpc(failure, self._address)
        except LegatoError as failure:  # an answer that cannot be read
            error = failure
            self._call.cancel()
        except asyncio.CancelledError:
            error = Cancelled("the session was canceled by this client")
        self._protocol.end(error)
        self._notify()

    async def _feed(self, frames: AsyncIterable[Frame | Picture] | Iterable[Frame | Picture], feed: Feed) -> None:
        try:
            if isinstance(frames, AsyncIterable):
                async for frame in frames:
                    await self._feed_one(frame, feed)
            else:
                for frame in frames:
                    await self._feed_one(frame, feed)
        except Exception as error:
            feed.error = error
        feed.ended = True
        self._notify()

    async def _feed_one(self, frame: Frame | Picture, feed: Feed) -> None:
        begun = time.monotonic()
        try:
            message = self._protocol.pack(frame)
        except LegatoError as error:
            feed.unanswered.add(self._protocol.fail(error))
        else:
            await self._until(lambda: self._protocol.can_send)
            feed.unanswered.add(self._protocol.send(message, begun))
        self._notify()


class _Opening:
    """What `AsyncClient.open` returns: await it for the session, or enter it with `async with`."""

    def __init__(self, make: Callable[[], AsyncSession], timeout: float) -> None:
        self._make, self._timeout = make, timeout
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[object, None, AsyncSession]:
        return self._make()._opening(self._timeout).__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.__aexit__(kind, error, trace)


class AsyncClient:
    """A connection to a legato server, for asyncio. Parameters and methods are those of `Client`.

    async with AsyncClient("127.0.0.1:50051") as client, client.open(edits={"smile": 2.0}) as session:
        async for answer in session.stream(frames):
            ...
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.address, self._timeout = address, timeout
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, OPTIONS)
        self._stub = InversionServiceStub(self._channel)

    def open(self, *, timeout: float | None = None, **options: Unpack[SessionOptions]) -> _Opening:
        """Opens a session: `await client.open(...)`, or `async with client.open(...) as session`; see `Client.open`."""
        protocol = StreamProtocol(**options)
        return _Opening(lambda: AsyncSession(self._stub, protocol, self.address), timeout or self._timeout)

    async def invert(
        self, image: Picture, *, timeout: float | None = None, **options: Unpack[calls.InvertOptions]
    ) -> Inversion:
        """Inverts one image, without a session."""
        return await self._do(calls.invert(image, **options), timeout)

    async def synthesize(
        self, *, timeout: float | None = None, **options: Unpack[calls.SynthesizeOptions]
    ) -> Synthesis:
        """Synthesizes the image of given latents, or of a seed."""
        return await self._do(calls.synthesize(**options), timeout)

    async def list_models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Models that the server has loaded."""
        return await self._do(calls.list_models(), timeout)

    async def list_directions(self, model: str = "", *, timeout: float | None = None) -> list[Direction]:
        """Named editing directions of a model (empty: the default)."""
        return await self._do(calls.list_directions(model), timeout)

    async def get_session(self, resume_token: str, *, timeout: float | None = None) -> SessionState:
        """State and counters of a session. Raises NotFound once it is gone."""
        return await self._do(calls.get_session(resume_token), timeout)

    async def close_session(self, resume_token: str, *, timeout: float | None = None) -> SessionStats:
        """Ends a session whose stream was cut. Raises NotFound once it is gone."""
        return await self._do(calls.close_session(resume_token), timeout)

    async def close(self) -> None:
        """Closes the connection; cancels what still runs on it."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _do(self, call: calls.Call[T], timeout: float | None) -> T:
        try:
            return call.read(await getattr(self._stub, call.method)(call.request, timeout=timeout or self._timeout))
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
