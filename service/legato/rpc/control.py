"""Models of a running server: what there is, LoadModel, UnloadModel."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from legato.errors import NotAllowed, ShuttingDown
from legato.models_served import Models
from legato.repository import Source
from legato.rpc import messages
from legato.served import Served, State
from legato_pb import inversion_pb2 as pb

WIRE_STATES = {
    State.LOADING: pb.MODEL_STATE_LOADING,
    State.READY: pb.MODEL_STATE_READY,
    State.DRAINING: pb.MODEL_STATE_DRAINING,
    State.FAILED: pb.MODEL_STATE_FAILED,
}


class ModelControl:
    """Answers the calls that are about models. Errors leave as LegatoError.

    Args:
        models: those of the server.
        threads: for what reads the folder.
        allowed: whether clients may load and unload.
    """

    def __init__(self, models: Models, threads: Executor, *, allowed: bool) -> None:
        self._models = models
        self._threads = threads
        self._allowed = allowed

    async def models(self, *, unloaded: bool) -> pb.ListModelsResponse:
        """What is served, and with `unloaded` what could be."""
        listed = self._models.listed()
        ready = [served for served in listed if served.state is State.READY and served.info is not None]
        versions = [self._version(served) for served in listed]
        if unloaded:
            known = {served.source for served in listed}
            there = await asyncio.get_running_loop().run_in_executor(self._threads, self._sources)
            versions += [
                pb.ModelVersion(name=source.name, version=source.version, state=pb.MODEL_STATE_UNLOADED)
                for source in there
                if source not in known
            ]
        return pb.ListModelsResponse(
            models=[messages.model(served.info) for served in ready if served.info is not None], versions=versions
        )

    async def load(self, request: pb.LoadModelRequest) -> pb.LoadModelResponse:
        """Answers once the version is ready; it is loaded to the end also where nobody waits for it any more."""
        self._check_allowed()
        loop = asyncio.get_running_loop()
        begin = self._models.load
        served = await loop.run_in_executor(
            self._threads, lambda: begin(request.name, request.version, beside=request.beside)
        )
        try:
            await asyncio.shield(asyncio.wrap_future(served.loaded))
        except asyncio.CancelledError:
            if not served.loaded.cancelled():
                raise
            raise ShuttingDown("the server stopped before this model was loaded; load it on another one") from None
        return pb.LoadModelResponse(version=self._version(served))

    async def unload(self, request: pb.UnloadModelRequest) -> pb.UnloadModelResponse:
        """Answers once the memory is free, or at once where sessions are waited for."""
        self._check_allowed()
        leaving = self._models.unload(request.name, request.version, drain=request.drain)
        unused = [asyncio.wrap_future(served.freed) for served in leaving if not served.used]
        await asyncio.gather(*unused)
        return pb.UnloadModelResponse(in_use=sum(served.used for served in leaving))

    def _version(self, served: Served) -> pb.ModelVersion:
        current = self._models.is_current(served)
        return pb.ModelVersion(
            name=served.source.name,
            version=served.source.version,
            state=WIRE_STATES[served.state],
            reason=served.reason,
            sessions=served.sessions,
            current=current,
            is_default=current and served.source.name == self._models.default,
            info=messages.model(served.info) if served.info is not None else None,
        )

    def _sources(self) -> list[Source]:
        repository = self._models.repository
        return [source for name in repository.names for source in repository.versions(name)]

    def _check_allowed(self) -> None:
        if not self._allowed:
            raise NotAllowed(
                "this server loads and unloads no models for its clients; start it with --allow-model-control",
                reason="MODEL_CONTROL_OFF",
            )
