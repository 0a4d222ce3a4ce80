"""The client for asyncio: the same protocol and calls as `client`, awaited."""
# ruff: noqa: ASYNC109 - a timeout is a parameter here because it is one in `Client`

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import grpc

from legato_client import calls, model_calls
from legato_client.async_session import AsyncSession
from legato_client.channel import DEFAULT_ADDRESS, OPTIONS
from legato_client.clip_call import Clip, ClipCall, ClipOptions, OnProgress
from legato_client.clip_types import ClipInversion
from legato_client.errors import from_rpc
from legato_client.images import Picture
from legato_client.model_calls import LOAD_SECONDS
from legato_client.model_types import ModelInfo, ModelVersion
from legato_client.protocol import StreamProtocol
from legato_client.types import (
    Direction,
    Inversion,
    SessionOptions,
    SessionState,
    SessionStats,
    Synthesis,
)
from legato_pb.inversion_pb2_grpc import InversionServiceStub

if TYPE_CHECKING:
    from legato_pb.inversion_pb2_grpc import InversionServiceAsyncStub  # a name for type checkers alone

T = TypeVar("T")


class _Opening:
    """What `AsyncClient.open` returns: await it for the session, or enter it with `async with`."""

    def __init__(self, make: Callable[[], AsyncSession], timeout: float) -> None:
        self._make, self._timeout = make, timeout
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[object, None, AsyncSession]:
        return self._make().opening(self._timeout).__await__()

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
        self.address, self._timeout, self._credentials = address, timeout, credentials

    def open(self, *, timeout: float | None = None, **options: Unpack[SessionOptions]) -> _Opening:
        """Opens a session: `await client.open(...)`, or `async with client.open(...) as session`; see `Client.open`."""
        protocol = StreamProtocol(**options)
        return _Opening(lambda: AsyncSession(self._stub, protocol, self.address), timeout or self._timeout)

    async def invert(
        self, image: Picture, *, timeout: float | None = None, **options: Unpack[calls.InvertOptions]
    ) -> Inversion:
        """Inverts one image, without a session."""
        return await self._do(calls.invert(image, **options), timeout)

    async def invert_clip(
        self,
        frames: Clip,
        method: str = "consecutive",
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        **options: Unpack[ClipOptions],
    ) -> ClipInversion:
        """Inverts a whole clip on the server; canceling the task ends the work there. See `Client.invert_clip`."""
        clip = await asyncio.to_thread(ClipCall, frames, method, on_progress, **options)
        call = self._stub.InvertClip(iter(clip.requests), timeout=timeout)
        try:
            async for answer in call:
                clip.take(answer)
        except grpc.RpcError as error:
            raise from_rpc(error, self.address) from None
        finally:
            call.cancel()  # of one that has ended, nothing
        return clip.result()

    async def synthesize(
        self, *, timeout: float | None = None, **options: Unpack[calls.SynthesizeOptions]
    ) -> Synthesis:
        """Synthesizes the image of given latents, or of a seed."""
        return await self._do(calls.synthesize(**options), timeout)

    async def list_models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Models that the server has loaded."""
        return await self._do(calls.list_models(), timeout)

    async def list_versions(self, *, unloaded: bool = False, timeout: float | None = None) -> list[ModelVersion]:
        """Versions of the models that the server knows of; with `unloaded` those that only lie in its folder, too."""
        return await self._do(model_calls.list_versions(unloaded), timeout)

    async def load_model(
        self, name: str, version: str = "", *, beside: bool = False, timeout: float = LOAD_SECONDS
    ) -> ModelVersion:
        """Loads a version of a model ("" is the newest) and waits until it is warm: its name then opens it.

        The version before it drains; with `beside` it stays, and this one is opened as name@version. Where it cannot be
        served, all stays as it was: raises ProtocolViolation (MODEL_FILE) with the reason, NotFound for what is not
        there, NotAllowed where the server allows no client to load.
        """
        return await self._do(model_calls.load_model(name, version, beside), timeout)

    async def unload_model(
        self, name: str, version: str = "", *, drain: bool = False, timeout: float | None = None
    ) -> int:
        """Unloads a version of a model ("" is all of them); what it is still used by: 0, its memory is free.

        Where it is used, raises ProtocolViolation (MODEL_IN_USE); with `drain` it goes with its last session.
        """
        return await self._do(model_calls.unload_model(name, version, drain), timeout)

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
        if "_channel" in vars(self):
            await self._channel.close()

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        """Made on first use: a channel belongs to the event loop that runs then."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.address, OPTIONS)
        return grpc.aio.secure_channel(self.address, self._credentials, OPTIONS)

    @cached_property
    def _stub(self) -> InversionServiceAsyncStub:
        return InversionServiceStub(self._channel)

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
