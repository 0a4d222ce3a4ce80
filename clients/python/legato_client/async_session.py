"""A stream for asyncio: the same protocol as `session`, moved by one reader task and gRPC's writer task."""
# ruff: noqa: ASYNC109 - a timeout is a parameter here because it is one in `Session`

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

import grpc

from legato_client.errors import Cancelled, DeadlineMissed, LegatoError, from_rpc
from legato_client.feed import Feed
from legato_client.images import Picture
from legato_client.protocol import StreamProtocol
from legato_client.session import CLOSE_SECONDS, SessionFacts
from legato_client.types import Answer, Changes, Frame, SessionStats
from legato_pb import inversion_pb2 as pb

if TYPE_CHECKING:
    from legato_pb.inversion_pb2_grpc import InversionServiceAsyncStub  # a name for type checkers alone


class AsyncSession(SessionFacts):
    """One stream, and its state on the server. Made by `AsyncClient.open`; every method is that of `Session`, awaited.

    `send` and `recv` may run in two tasks; `stream` does both.
    """

    def __init__(self, stub: InversionServiceAsyncStub, protocol: StreamProtocol, address: str) -> None:
        self._protocol, self._address = protocol, address
        self._changed = asyncio.Event()
        self._call = stub.Stream(self._requests())
        self._reader = asyncio.create_task(self._read(), name="legato-session")

    async def stream(
        self, frames: AsyncIterable[Frame | Picture] | Iterable[Frame | Picture]
    ) -> AsyncGenerator[Answer, None]:
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

    async def update(self, **changes: Unpack[Changes]) -> None:
        """Changes what later frames ask for: from the next frame on, or from `from_seq`."""
        self._protocol.update(changes)
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

    async def opening(self, timeout: float) -> Self:
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
