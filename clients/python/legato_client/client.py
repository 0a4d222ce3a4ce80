"""The client for threads."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from legato_client import calls, model_calls
from legato_client.channel import DEFAULT_ADDRESS, OPTIONS
from legato_client.clip_call import Clip, ClipCall, ClipOptions, OnProgress
from legato_client.clip_types import ClipInversion
from legato_client.errors import from_rpc
from legato_client.images import Picture
from legato_client.model_calls import LOAD_SECONDS
from legato_client.model_types import ModelInfo, ModelVersion
from legato_client.protocol import StreamProtocol
from legato_client.session import Session
from legato_client.types import (
    Direction,
    Inversion,
    SessionOptions,
    SessionState,
    SessionStats,
    Synthesis,
)
from legato_pb.inversion_pb2_grpc import InversionServiceStub

T = TypeVar("T")


class Client:
    """A connection to a legato server, for threads. `AsyncClient` is the same for asyncio.

    address: "host:port", or "unix:/path". credentials: for TLS, from `grpc.ssl_channel_credentials`. timeout: seconds
    until a call, or the opening of a session, raises DeadlineMissed, unless the call says otherwise.

        with Client("127.0.0.1:50051") as client, client.open(edits={"smile": 2.0}) as session:
            for answer in session.stream(frames):
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
            self._channel = grpc.insecure_channel(address, OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, OPTIONS)
        self._stub = InversionServiceStub(self._channel)

    def open(self, *, timeout: float | None = None, **options: Unpack[SessionOptions]) -> Session:
        """Opens a session; waits until the server has granted it. Options: see SessionOptions.

        Raises NotFound for an unknown model or direction, InvalidInput for a wrong option, Overloaded when the server
        is full, ServerUnreachable where no server answers.
        """
        return Session(self._stub, StreamProtocol(**options), self.address, timeout or self._timeout)

    def invert(
        self, image: Picture, *, timeout: float | None = None, **options: Unpack[calls.InvertOptions]
    ) -> Inversion:
        """Inverts one image, without a session."""
        return self._do(calls.invert(image, **options), timeout)

    def invert_clip(
        self,
        frames: Clip,
        method: str = "consecutive",
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        **options: Unpack[ClipOptions],
    ) -> ClipInversion:
        """Inverts a whole clip on the server, where live streams go first; minutes rather than seconds.

        method: "NAME" or "NAME:key=value,key=value": "consecutive" (all frames jointly; of photos in no order
        "consecutive:ordered=false"), "in_domain", "w_plus", "w", "multi_code", "encoder". on_progress is told the place
        in the queue and the steps; what it raises ends the call and the work. timeout: seconds; None waits for ever.

        Raises InvalidInput for a clip or a method that cannot be (`fields` names the frame), Overloaded when too many
        clips wait.
        """
        clip = ClipCall(frames, method, on_progress, **options)
        call = self._stub.InvertClip(iter(clip.requests), timeout=timeout)
        try:
            for answer in call:
                clip.take(answer)
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
        finally:
            call.cancel()  # of one that has ended, nothing
        return clip.result()

    def synthesize(self, *, timeout: float | None = None, **options: Unpack[calls.SynthesizeOptions]) -> Synthesis:
        """Synthesizes the image of given latents, or of a seed."""
        return self._do(calls.synthesize(**options), timeout)

    def list_models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Models that the server has loaded."""
        return self._do(calls.list_models(), timeout)

    def list_versions(self, *, unloaded: bool = False, timeout: float | None = None) -> list[ModelVersion]:
        """Versions of the models that the server knows of; with `unloaded` those that only lie in its folder, too."""
        return self._do(model_calls.list_versions(unloaded), timeout)

    def load_model(
        self, name: str, version: str = "", *, beside: bool = False, timeout: float = LOAD_SECONDS
    ) -> ModelVersion:
        """Loads a version of a model ("" is the newest) and waits until it is warm: its name then opens it.

        The version before it drains; with `beside` it stays, and this one is opened as name@version. Where it cannot be
        served, all stays as it was: raises ProtocolViolation (MODEL_FILE) with the reason, NotFound for what is not
        there, NotAllowed where the server allows no client to load.
        """
        return self._do(model_calls.load_model(name, version, beside), timeout)

    def unload_model(self, name: str, version: str = "", *, drain: bool = False, timeout: float | None = None) -> int:
        """Unloads a version of a model ("" is all of them); what it is still used by: 0, its memory is free.

        Where it is used, raises ProtocolViolation (MODEL_IN_USE); with `drain` it goes with its last session.
        """
        return self._do(model_calls.unload_model(name, version, drain), timeout)

    def list_directions(self, model: str = "", *, timeout: float | None = None) -> list[Direction]:
        """Named editing directions of a model (empty: the default)."""
        return self._do(calls.list_directions(model), timeout)

    def get_session(self, resume_token: str, *, timeout: float | None = None) -> SessionState:
        """State and counters of a session. Raises NotFound once it is gone."""
        return self._do(calls.get_session(resume_token), timeout)

    def close_session(self, resume_token: str, *, timeout: float | None = None) -> SessionStats:
        """Ends a session whose stream was cut. Raises NotFound once it is gone."""
        return self._do(calls.close_session(resume_token), timeout)

    def close(self) -> None:
        """Closes the connection; cancels what still runs on it."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, call: calls.Call[T], timeout: float | None) -> T:
        try:
            return call.read(getattr(self._stub, call.method)(call.request, timeout=timeout or self._timeout))
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
