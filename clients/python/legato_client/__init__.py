"""legato-client: stream video frames to a legato server and get them back inverted and edited.

`Client` is for threads, `AsyncClient` for asyncio; both speak the same protocol and give the same values.
"""

from legato_client.alignment import Alignment, FrameAlignment
from legato_client.async_client import AsyncClient
from legato_client.async_session import AsyncSession
from legato_client.client import Client
from legato_client.clip_types import ClipFrame, ClipInversion, ClipProgress
from legato_client.errors import (
    Cancelled,
    ConnectionLost,
    DeadlineMissed,
    InvalidEdit,
    InvalidImage,
    InvalidInput,
    LegatoError,
    MessageTooLarge,
    NotAllowed,
    NotFound,
    Overloaded,
    ProtocolViolation,
    ServerError,
    ServerStopping,
    ServerUnreachable,
    SessionClosed,
    Unavailable,
)
from legato_client.images import Image, Picture
from legato_client.model_types import ModelInfo, ModelRef, ModelVersion
from legato_client.session import Session
from legato_client.types import (
    Answer,
    Budget,
    Direction,
    Dropped,
    Edit,
    Failed,
    Frame,
    FrameResult,
    Inversion,
    Limits,
    Notice,
    Opened,
    Outputs,
    SessionState,
    SessionStats,
    Synthesis,
)

__all__ = [
    "Alignment",
    "Answer",
    "AsyncClient",
    "AsyncSession",
    "Budget",
    "Cancelled",
    "Client",
    "ClipFrame",
    "ClipInversion",
    "ClipProgress",
    "ConnectionLost",
    "DeadlineMissed",
    "Direction",
    "Dropped",
    "Edit",
    "Failed",
    "Frame",
    "FrameAlignment",
    "FrameResult",
    "Image",
    "InvalidEdit",
    "InvalidImage",
    "InvalidInput",
    "Inversion",
    "LegatoError",
    "Limits",
    "MessageTooLarge",
    "ModelInfo",
    "ModelRef",
    "ModelVersion",
    "NotAllowed",
    "NotFound",
    "Notice",
    "Opened",
    "Outputs",
    "Overloaded",
    "Picture",
    "ProtocolViolation",
    "ServerError",
    "ServerStopping",
    "ServerUnreachable",
    "Session",
    "SessionClosed",
    "SessionState",
    "SessionStats",
    "Synthesis",
    "Unavailable",
]
