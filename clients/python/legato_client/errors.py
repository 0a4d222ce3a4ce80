"""Every error that the client raises on purpose; the server's tree, plus what only a client can see.

LegatoError
├── InvalidInput            INVALID_ARGUMENT     the request cannot be right; the message says what was wanted
│   ├── InvalidImage                             bytes that are no image, wrong size, over the pixel limit
│   └── InvalidEdit                              unknown direction, strength not finite or too large
├── NotFound                NOT_FOUND            unknown model, direction, session
├── ProtocolViolation       FAILED_PRECONDITION  frame before open, second open, seq going back
│   └── SessionClosed                            the session was used after its end
├── Overloaded              RESOURCE_EXHAUSTED   queue or sessions full; `retry_seconds` says when to try again
│   └── MessageTooLarge                          one message over the transport's limit
├── DeadlineMissed          DEADLINE_EXCEEDED    no answer in the time that was given
├── Unavailable             UNAVAILABLE          no server to talk to
│   ├── ServerUnreachable                        no connection could be made
│   ├── ServerStopping                           the server said that it is stopping
│   └── ConnectionLost                           the connection or the server died in the middle of a call
├── NotAllowed              PERMISSION_DENIED    what the server was not told to allow
├── Cancelled               CANCELLED            the call was canceled, by this side or a proxy
└── ServerError             anything else        a fault of the server; nothing about it to mend here
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

_DETAILS_KEY = "grpc-status-details-bin"


class LegatoError(Exception):
    """Base of all expected errors.

    `reason` is the server's UPPER_SNAKE word for it, or the client's own; `retry_seconds` when to try again, where the
    server said; `fields` the request fields that were wrong.
    """

    reason: str = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_seconds: float | None = None,
        fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        if reason:
            self.reason = reason
        self.retry_seconds = retry_seconds
        self.fields = fields


class InvalidInput(LegatoError):
    reason = "INVALID_INPUT"


class InvalidImage(InvalidInput):
    reason = "INVALID_IMAGE"


class InvalidEdit(InvalidInput):
    reason = "INVALID_EDIT"


class NotFound(LegatoError):
    reason = "NOT_FOUND"


class ProtocolViolation(LegatoError):
    reason = "PROTOCOL_VIOLATION"


class SessionClosed(ProtocolViolation):
    reason = "SESSION_CLOSED"


class Overloaded(LegatoError):
    reason = "OVERLOADED"


class MessageTooLarge(Overloaded):
    reason = "MESSAGE_TOO_LARGE"


class DeadlineMissed(LegatoError):
    reason = "DEADLINE_MISSED"


class Unavailable(LegatoError):
    reason = "UNAVAILABLE"


class ServerUnreachable(Unavailable):
    reason = "SERVER_UNREACHABLE"


class ServerStopping(Unavailable):
    reason = "SHUTTING_DOWN"


class ConnectionLost(Unavailable):
    reason = "CONNECTION_LOST"


class NotAllowed(LegatoError):
    reason = "NOT_ALLOWED"


class Cancelled(LegatoError):
    reason = "CANCELLED"


class ServerError(LegatoError):
    reason = "INTERNAL"


# The one mapping. A reason, where there is one, says more than the status; a frame that fails has nothing else.
_BY_REASON: dict[str, type[LegatoError]] = {
    "INVALID_INPUT": InvalidInput,
    "INVALID_FLOW": InvalidInput,
    "UNKNOWN_FORMAT": InvalidInput,
    "INVALID_IMAGE": InvalidImage,
    "IMAGE_TOO_LARGE": InvalidImage,
    "INVALID_EDIT": InvalidEdit,
    "UNKNOWN_DIRECTION": InvalidEdit,
    "NOT_FOUND": NotFound,
    "SESSION_NOT_FOUND": NotFound,
    "PROTOCOL_VIOLATION": ProtocolViolation,
    "SEQ_NOT_INCREASING": ProtocolViolation,
    "SESSION_CLOSING": SessionClosed,
    "OVERLOADED": Overloaded,
    "QUEUE_FULL": Overloaded,
    "SESSIONS_FULL": Overloaded,
    "MESSAGE_TOO_LARGE": MessageTooLarge,
    "DEADLINE_MISSED": DeadlineMissed,
    "SHUTTING_DOWN": ServerStopping,
    "INTERNAL": ServerError,
}
_BY_STATUS: dict[grpc.StatusCode, type[LegatoError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: ProtocolViolation,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineMissed,
    grpc.StatusCode.UNAVAILABLE: ConnectionLost,
    grpc.StatusCode.CANCELLED: Cancelled,
}


@dataclass(frozen=True, slots=True)
class _Details:
    """What google.rpc.Status carried beside the message."""

    reason: str | None = None
    retry_seconds: float | None = None
    fields: tuple[str, ...] = ()


def from_reason(reason: str, message: str) -> LegatoError:
    """Error for a frame that failed inside a stream, where only the reason travels."""
    return _BY_REASON.get(reason, ServerError)(message, reason=reason)


def from_rpc(error: grpc.RpcError, address: str) -> LegatoError:
    """Error for a call that failed, from its gRPC status and details; sync and aio calls alike."""
    status: grpc.StatusCode = error.code()
    text: str = error.details() or ""
    details = _read_details(error.trailing_metadata() or ())
    cls = _BY_REASON.get(details.reason or "") or _BY_STATUS.get(status, ServerError)
    if details.reason is None:
        cls, text = _without_details(cls, status, text, address)
    return cls(text, reason=details.reason, retry_seconds=details.retry_seconds, fields=details.fields)


def _without_details(
    cls: type[LegatoError], status: grpc.StatusCode, text: str, address: str
) -> tuple[type[LegatoError], str]:
    """Class and message for a status that the transport made, not legato: only its text tells the cases apart."""
    if status is grpc.StatusCode.UNAVAILABLE:
        if "failed to connect" in text or "DNS resolution failed" in text or "handshake" in text:
            return ServerUnreachable, f"no server answers at {address}: is `legato serve` running there? ({text})"
        return (
            ConnectionLost,
            f"the server at {address} went away in the middle of the call ({text or 'no reason told'})",
        )
    if status is grpc.StatusCode.INTERNAL and text.startswith("Internal error from Core"):
        # grpc.aio, when the server ends a call while a message is on its way: the status that it sent is lost
        return ConnectionLost, f"{address} ended the call while it was being sent to, and why was lost; try again"
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return MessageTooLarge, f"one message is over the limit: send a smaller image, or a JPEG ({text})"
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineMissed, f"{address} did not answer in the time that was given ({text})"
    return cls, text or f"{status.name} from {address}"


def _read_details(metadata: Iterable[Any]) -> _Details:
    reason: str | None = None
    retry_seconds: float | None = None
    fields: tuple[str, ...] = ()
    for key, value in metadata:
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info, retry, bad = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.RetryInfo(),
                error_details_pb2.BadRequest(),
            )
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(retry):
                delay: Duration = retry.retry_delay
                retry_seconds = delay.seconds + delay.nanos * 1e-9
            elif detail.Unpack(bad):
                fields = tuple(violation.field for violation in bad.field_violations)
    return _Details(reason, retry_seconds, fields)
