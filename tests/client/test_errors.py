"""From gRPC's status, text and details to the client's classes: one mapping, for calls and for frames that fail."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from legato_client import errors


class Refusal(grpc.RpcError):
    """A failed call as gRPC hands it out."""

    def __init__(self, status: grpc.StatusCode, text: str, *details: Message) -> None:
        super().__init__()
        self._status, self._text = status, text
        packed = []
        for detail in details:
            packed.append(AnyMessage())
            packed[-1].Pack(detail)
        rich = status_pb2.Status(code=status.value[0], message=text, details=packed)
        self._trailing = (("other", "text"), ("grpc-status-details-bin", rich.SerializeToString())) if details else None

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> Any:
        return self._trailing


def info(reason: str) -> Message:
    message: Message = error_details_pb2.ErrorInfo(reason=reason, domain="legato")
    return message


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_IMAGE", errors.InvalidImage),
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_EDIT", errors.InvalidEdit),
        (grpc.StatusCode.INVALID_ARGUMENT, "A_NEW_WORD", errors.InvalidInput),
        (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", errors.NotFound),
        (grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VIOLATION", errors.ProtocolViolation),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "SESSIONS_FULL", errors.Overloaded),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_MISSED", errors.DeadlineMissed),
        (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", errors.ServerStopping),
        (grpc.StatusCode.INTERNAL, "INTERNAL", errors.ServerError),
    ],
)
def test_the_reason_chooses_the_class_and_the_status_where_it_is_new(
    status: grpc.StatusCode, reason: str, expected: type[errors.LegatoError]
) -> None:
    error = errors.from_rpc(Refusal(status, "what was wanted", info(reason)), "here:1")
    assert type(error) is expected
    assert error.reason == reason
    assert str(error) == "what was wanted"


@pytest.mark.parametrize(
    ("status", "text", "expected", "says"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", errors.ServerUnreachable, "legato serve"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", errors.ConnectionLost, "went away in the middle"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max", errors.MessageTooLarge, "smaller"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit", errors.Overloaded, "Concurrent"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", errors.DeadlineMissed, "did not answer in the time"),
        (grpc.StatusCode.CANCELLED, "", errors.Cancelled, "CANCELLED from here:1"),
        (grpc.StatusCode.INTERNAL, "Internal error from Core", errors.ConnectionLost, "why was lost; try again"),
        (grpc.StatusCode.UNKNOWN, "boom", errors.ServerError, "boom"),
    ],
)
def test_what_the_transport_says_alone_is_told_apart_by_its_text(
    status: grpc.StatusCode, text: str, expected: type[errors.LegatoError], says: str
) -> None:
    error = errors.from_rpc(Refusal(status, text), "here:1")
    assert type(error) is expected
    assert says in str(error)


def test_retry_time_and_wrong_fields_come_along() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="open.options.edits[0]", description="unknown")
    error = errors.from_rpc(
        Refusal(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "full",
            info("SESSIONS_FULL"),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000)),
            error_details_pb2.BadRequest(field_violations=[violation]),
        ),
        "here:1",
    )
    assert error.retry_seconds == 2.5
    assert error.fields == ("open.options.edits[0]",)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("INVALID_IMAGE", errors.InvalidImage),
        ("SEQ_NOT_INCREASING", errors.ProtocolViolation),
        ("?", errors.ServerError),
    ],
)
def test_a_failed_frame_has_only_its_reason(reason: str, expected: type[errors.LegatoError]) -> None:
    error = errors.from_reason(reason, "what was wanted")
    assert type(error) is expected
    assert (error.reason, str(error)) == (reason, "what was wanted")


def test_the_tree_at_the_top_is_the_tree_of_the_classes() -> None:
    drawn = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.lstrip("│├└─ ").split(" ")[0]
        if not isinstance(getattr(errors, name, None), type):
            continue
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        path[depth:] = [name]
        drawn[name] = path[depth - 1] if depth else "Exception"
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LegatoError)}
    assert drawn == {cls.__name__: cls.__base__.__name__ for cls in classes if cls.__base__}
