"""Every error that legato raises on purpose.

LegatoError
├── InvalidInput            INVALID_ARGUMENT     the request cannot be right; says what was wanted
│   ├── InvalidImage                             bytes that are no image, wrong size, over the pixel limit
│   └── InvalidEdit                              unknown direction, strength not finite or too large
├── NotFound                NOT_FOUND            unknown model, direction, session
├── ProtocolViolation       FAILED_PRECONDITION  frame before open, second open, seq going back
├── Overloaded              RESOURCE_EXHAUSTED   queue or sessions full; carries when to try again
│   └── OutOfMemory                              the device has not the memory for one frame more
├── DeadlineMissed          DEADLINE_EXCEEDED    could not be answered in time
├── ShuttingDown            UNAVAILABLE          the server is stopping
│   └── DeviceLost                               the device has failed, so this server ends
├── NotAllowed              PERMISSION_DENIED    what this server was not told to allow
├── ModelFileError          FAILED_PRECONDITION  weights missing, damaged or of another kind
├── ConfigError             (start-up)           unknown key, wrong value, port taken
└── BackendUnavailable      (start-up)           an op's backend was asked for and is absent
"""

from __future__ import annotations


class LegatoError(Exception):
    """Base of expected errors. `reason` is the UPPER_SNAKE word that goes on the wire, `status` the gRPC code."""

    status: str = "INTERNAL"
    reason: str = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason
        self.field = field  # path of the offending request field, for BadRequest


class InvalidInput(LegatoError):
    status = "INVALID_ARGUMENT"
    reason = "INVALID_INPUT"


class InvalidImage(InvalidInput):
    reason = "INVALID_IMAGE"


class InvalidEdit(InvalidInput):
    reason = "INVALID_EDIT"


class NotFound(LegatoError):
    status = "NOT_FOUND"
    reason = "NOT_FOUND"


class ProtocolViolation(LegatoError):
    status = "FAILED_PRECONDITION"
    reason = "PROTOCOL_VIOLATION"


class Overloaded(LegatoError):
    status = "RESOURCE_EXHAUSTED"
    reason = "OVERLOADED"

    def __init__(self, message: str, *, retry_seconds: float = 1.0, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_seconds = retry_seconds


class OutOfMemory(Overloaded):
    reason = "OUT_OF_MEMORY"


class DeadlineMissed(LegatoError):
    status = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_MISSED"


class ShuttingDown(LegatoError):
    status = "UNAVAILABLE"
    reason = "SHUTTING_DOWN"


class DeviceLost(ShuttingDown):
    reason = "DEVICE_LOST"


class NotAllowed(LegatoError):
    status = "PERMISSION_DENIED"
    reason = "NOT_ALLOWED"


class ModelFileError(LegatoError):
    status = "FAILED_PRECONDITION"
    reason = "MODEL_FILE"


class ConfigError(LegatoError):
    status = "FAILED_PRECONDITION"
    reason = "CONFIG"


class BackendUnavailable(LegatoError):
    status = "FAILED_PRECONDITION"
    reason = "BACKEND_UNAVAILABLE"
