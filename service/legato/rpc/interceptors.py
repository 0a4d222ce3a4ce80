"""Errors on their way out, once for all calls: the only place that knows gRPC's status codes.

An expected error becomes a google.rpc.Status with ErrorInfo{reason, domain "legato"}, RetryInfo when it says when to
try again, BadRequest when the request cannot be right. Anything else is logged with its traceback under an id, and the
client learns the id alone. Texts are cut so that the metadata stays below 8 KiB.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from legato.errors import InvalidInput, LegatoError, Overloaded

DOMAIN = "legato"
OWN_METHODS = "/legato.v1."
MAX_TEXT_BYTES = 1000  # it travels up to three times, percent-encoded or in base64

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]


def status_of(error: LegatoError) -> status_pb2.Status:
    """The google.rpc.Status of an expected error."""
    text = _cut(str(error))
    details: list[message.Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, Overloaded):
        delay = duration_pb2.Duration(nanos=int(error.retry_seconds % 1 * 1e9), seconds=int(error.retry_seconds))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, InvalidInput):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field or "", description=text)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    status = status_pb2.Status(code=grpc.StatusCode[error.status].value[0], message=text)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def unexpected(error: BaseException, where: str) -> LegatoError:
    """Logs an error that nobody meant, under an id; gives the error that the client may see."""
    name = secrets.token_hex(6)
    log.error("unexpected error %s in %s", name, where, extra={"fields": {"error_id": name}}, exc_info=error)
    return LegatoError(f"internal error {name}; the server's log has the details under this id")


async def abort(context: Context, error: LegatoError) -> NoReturn:
    """Ends the call with the error's status."""
    status = status_of(error)
    metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(grpc.StatusCode[error.status], status.message, metadata)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of legato.v1; health and reflection keep their own errors."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith(OWN_METHODS):
            return handler
        kind = "stream_stream" if handler.request_streaming else "unary_unary"
        inner = getattr(handler, kind)

        async def guarded(request: Any, context: Context) -> Any:
            try:
                return await inner(request, context)
            except grpc.aio.BaseError:
                raise
            except LegatoError as error:
                await abort(context, error)
            except Exception as error:
                await abort(context, unexpected(error, method))

        return getattr(grpc, f"{kind}_rpc_method_handler")(
            guarded, handler.request_deserializer, handler.response_serializer
        )


def _cut(text: str) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= MAX_TEXT_BYTES else data[: MAX_TEXT_BYTES - 3].decode("utf-8", "ignore") + "..."
