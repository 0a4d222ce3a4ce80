"""A stream for threads: `StreamProtocol` behind a lock, moved by gRPC's writer thread and one reader thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, Unpack

import grpc

from legato_client.errors import Cancelled, DeadlineMissed, LegatoError, from_rpc
from legato_client.feed import Feed
from legato_client.images import Picture
from legato_client.model_types import ModelInfo
from legato_client.protocol import StreamProtocol
from legato_client.types import Answer, Changes, Frame, Limits, Notice, Opened, SessionStats
from legato_pb import inversion_pb2 as pb
from legato_pb.inversion_pb2_grpc import InversionServiceStub

CLOSE_SECONDS = 10.0


class SessionFacts:
    """What both kinds of session know of themselves."""

    _protocol: StreamProtocol

    @property
    def opened(self) -> Opened:
        """What the server granted."""
        return self._protocol.check_opened()

    @property
    def id(self) -> str:
        return self.opened.session_id

    @property
    def resume_token(self) -> str:
        return self.opened.resume_token

    @property
    def model(self) -> ModelInfo:
        return self.opened.model

    @property
    def limits(self) -> Limits:
        return self.opened.limits

    @property
    def notices(self) -> list[Notice]:
        """Warnings of the server so far, and its word that it is about to stop."""
        return list(self._protocol.notices)


class Session(SessionFacts):
    """One stream, and its state on the server. Made by `Client.open`; closes itself at the end of a `with` block.

    `send` and `recv` may be called from two threads; `stream` does both.
    """

    def __init__(self, stub: InversionServiceStub, protocol: StreamProtocol, address: str, timeout: float) -> None:
        self._protocol, self._address = protocol, address
        self._changed = threading.Condition()
        self._call = stub.Stream(self._requests())
        threading.Thread(target=self._read, name="legato-session", daemon=True).start()
        try:
            with self._changed:
                self._until(lambda: protocol.opened or protocol.finished, timeout, "did not open the session")
                protocol.check_opened()
        except BaseException:
            self.cancel()
            raise

    def stream(self, frames: Iterable[Frame | Picture]) -> Iterator[Answer]:
        """Sends the frames from a thread of its own and yields one answer for each: FrameResult, Dropped or Failed.

        A frame that is no image is answered with Failed. What `frames` raises is raised here. Leaving the loop early
        throws the remaining answers away and keeps the session. Raises the stream's error where it breaks.
        """
        feed = Feed()
        threading.Thread(target=self._feed, args=(frames, feed), name="legato-feed", daemon=True).start()
        try:
            while True:
                with self._changed:
                    self._until(lambda: feed.finished or self._protocol.can_take, None, "")
                    if feed.finished and not self._protocol.can_take:
                        break
                    answer = self._protocol.take()
                    feed.unanswered.discard(answer.seq)
                    self._changed.notify_all()  # taking an answer may have granted the server another
                yield answer
            if feed.error:
                raise feed.error
        finally:
            with self._changed:
                feed.abandoned = True
                self._protocol.discard(feed.unanswered)
                self._changed.notify_all()

    def send(self, frame: Frame | Picture, *, seq: int | None = None, timeout: float | None = None) -> int:
        """Sends one frame and returns its seq. "ordered" waits while too many are in flight; "latest" never waits.

        Raises InvalidImage for what is no image, DeadlineMissed after `timeout` seconds, and the stream's error once
        it broke.
        """
        begun = time.monotonic()
        message = self._protocol.pack(frame)
        with self._changed:
            self._until(lambda: self._protocol.can_send, timeout, "left no room for a further frame; take some answers")
            sent = self._protocol.send(message, begun, seq)
            self._changed.notify_all()
        return sent

    def recv(self, *, timeout: float | None = None) -> Answer:
        """The next answer; waits for it. Raises DeadlineMissed after `timeout` seconds, the stream's error once it
        broke, SessionClosed after its end."""
        with self._changed:
            self._until(lambda: self._protocol.can_take, timeout, "gave no answer")
            answer = self._protocol.take()
            self._changed.notify_all()
        return answer

    def update(self, **changes: Unpack[Changes]) -> None:
        """Changes what later frames ask for: from the next frame on, or from `from_seq`."""
        with self._changed:
            self._protocol.update(changes)
            self._changed.notify_all()

    def close(self, *, timeout: float = CLOSE_SECONDS) -> SessionStats:
        """Ends the session, after the answers of all frames in flight (they can still be taken); its counters.

        Raises the stream's error where it broke, DeadlineMissed after `timeout` seconds (the stream is canceled then).
        """
        try:
            with self._changed:
                self._protocol.close()
                self._changed.notify_all()
                self._until(lambda: self._protocol.finished, timeout, "did not close the session")
                return self._protocol.final_stats()
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Cuts the stream. The server keeps the session's state for `limits.resume_seconds`."""
        with self._changed:
            self._protocol.end(Cancelled("the session was canceled by this client"))
            self._changed.notify_all()
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._protocol.told:
            self.close()
        else:
            self.cancel()

    def _until(self, ready: Callable[[], object], timeout: float | None, complaint: str) -> None:
        if not self._changed.wait_for(ready, timeout):
            raise DeadlineMissed(f"{self._address} {complaint} within {timeout:g} s")

    def _requests(self) -> Iterator[pb.StreamRequest]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._protocol.has_message)
                message = self._protocol.next_message()
            if message is None:
                return
            yield message

    def _read(self) -> None:
        error: LegatoError | None = None
        try:
            for response in self._call:
                with self._changed:
                    self._protocol.receive(response)
                    self._changed.notify_all()
        except grpc.RpcError as failure:
            error = from_rpc(failure, self._address)
        except LegatoError as failure:  # an answer that cannot be read
            error = failure
            self._call.cancel()
        with self._changed:
            self._protocol.end(error)
            self._changed.notify_all()

    def _feed(self, frames: Iterable[Frame | Picture], feed: Feed) -> None:
        try:
            for frame in frames:
                self._feed_one(frame, feed)
                if feed.abandoned:
                    break
        except Exception as error:
            feed.error = error
        with self._changed:
            feed.ended = True
            self._changed.notify_all()

    def _feed_one(self, frame: Frame | Picture, feed: Feed) -> None:
        begun = time.monotonic()
        try:
            message = self._protocol.pack(frame)
        except LegatoError as error:
            with self._changed:
                feed.unanswered.add(self._protocol.fail(error))
                self._changed.notify_all()
            return
        with self._changed:
            self._until(lambda: feed.abandoned or self._protocol.can_send, None, "")
            if not feed.abandoned:
                feed.unanswered.add(self._protocol.send(message, begun))
                self._changed.notify_all()
