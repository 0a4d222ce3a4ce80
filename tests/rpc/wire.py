"""A client of bare messages, for what the SDK would never send."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, Self

import grpc
import numpy as np
import simplejpeg
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from legato_pb import inversion_pb2 as pb
from legato_pb import inversion_pb2_grpc

RESOLUTION = 64  # of the tiny model; this module imports no torch
TIMEOUT_SECONDS = 60.0


def picture(side: int = RESOLUTION, shade: int = 100) -> pb.Image:
    """A raw square image of one shade."""
    data = np.full((side, side, 3), shade, np.uint8).tobytes()
    return pb.Image(format=pb.IMAGE_FORMAT_RAW_RGB8, data=data, width=side, height=side)


def pixels(image: pb.Image) -> Any:
    """uint8 [H, W, 3] of a raw or JPEG image message."""
    if image.format == pb.IMAGE_FORMAT_JPEG:
        return simplejpeg.decode_jpeg(image.data)
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)


class Wire:
    """One Stream call: messages out by `send`, in by `next`; leaving cancels it, as a client that dies would."""

    def __init__(self, stub: inversion_pb2_grpc.InversionServiceStub) -> None:
        self._requests: queue.SimpleQueue[pb.StreamRequest | None] = queue.SimpleQueue()
        self.call: Any = stub.Stream(iter(self._requests.get, None), timeout=TIMEOUT_SECONDS)
        self.opened = pb.Opened()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.call.cancel()
        self._requests.put(None)

    def send(self, **message: Any) -> None:
        """One StreamRequest: send(frame=...), send(close=pb.Close())."""
        self._requests.put(pb.StreamRequest(**message))

    def open(self, resume_token: str = "", last_seq: int = 0, model: str = "", **options: Any) -> Self:
        """Sends open and takes in `opened`."""
        opening = pb.Open(
            model=model, resume_token=resume_token, last_seq=last_seq, options=pb.SessionOptions(**options)
        )
        self.send(open=opening)
        first = self.next()
        assert first.WhichOneof("message") == "opened"
        self.opened = first.opened
        return self

    def frame(self, seq: int, image: pb.Image | None = None, **fields: Any) -> None:
        """Sends a frame."""
        self.send(frame=pb.FrameInput(seq=seq, image=image or picture(), **fields))

    def end(self) -> None:
        """Says that no message follows, without close."""
        self._requests.put(None)

    def next(self) -> pb.StreamResponse:
        """The next message of the server. Raises grpc.RpcError when the stream ended with a status."""
        response: pb.StreamResponse = next(self.call)
        return response

    def result(self) -> pb.FrameResult:
        """The next message, which is a result."""
        message = self.next()
        assert message.WhichOneof("message") == "result", message
        return message.result

    def failed(self) -> pb.FrameFailed:
        """The next message, which is a failure."""
        message = self.next()
        assert message.WhichOneof("message") == "failed", message
        return message.failed

    def rest(self) -> list[pb.StreamResponse]:
        """Everything until the stream ends in good order."""
        return list(self.call)


def kinds(messages: list[pb.StreamResponse]) -> list[str]:
    """result 1, dropped 2, closed ...: the kind of each message, with its seq where it has one."""
    found = []
    for message in messages:
        kind = str(message.WhichOneof("message"))
        seq = getattr(getattr(message, kind), "seq", None)
        found.append(kind if seq is None else f"{kind} {seq}")
    return found


class Refusal:
    """A call's status, taken apart."""

    def __init__(self, error: Any) -> None:
        self.code = error.code().name
        self.message = error.details()
        self.metadata_bytes = sum(len(key) + len(value) for key, value in error.trailing_metadata() or ())
        self.reason = self.domain = self.field = ""
        self.retry_seconds = 0.0
        for detail in self._details(error):
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                self.reason, self.domain = info.reason, info.domain
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                self.retry_seconds = delay.seconds + delay.nanos / 1e9
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                self.field = error_details_pb2.BadRequest.FromString(detail.value).field_violations[0].field

    @staticmethod
    def _details(error: Any) -> Iterator[Any]:
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                yield from status_pb2.Status.FromString(value).details


def refusal(call: Any, *arguments: Any, **named: Any) -> Refusal:
    """The status that a call is refused with."""
    try:
        answer = call(*arguments, **named)
    except grpc.RpcError as error:
        return Refusal(error)
    raise AssertionError(f"the call was not refused, but answered with {answer}")
