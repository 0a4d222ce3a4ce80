"""The calls about models and their versions, each as data; both clients run them."""

from __future__ import annotations

from legato_client import wire
from legato_client.calls import Call
from legato_client.model_types import ModelState, ModelVersion
from legato_pb import inversion_pb2 as pb

LOAD_SECONDS = 600.0  # a large model takes a while to read and to warm
_STATES: dict[int, ModelState] = {
    pb.MODEL_STATE_LOADING: "loading",
    pb.MODEL_STATE_READY: "ready",
    pb.MODEL_STATE_DRAINING: "draining",
    pb.MODEL_STATE_FAILED: "failed",
    pb.MODEL_STATE_UNLOADED: "unloaded",
}


def list_versions(unloaded: bool) -> Call[list[ModelVersion]]:
    request = pb.ListModelsRequest(unloaded=unloaded)
    return Call("ListModels", request, lambda found: [_read_version(version) for version in found.versions])


def load_model(name: str, version: str, beside: bool) -> Call[ModelVersion]:
    request = pb.LoadModelRequest(name=name, version=version, beside=beside)
    return Call("LoadModel", request, lambda loaded: _read_version(loaded.version))


def unload_model(name: str, version: str, drain: bool) -> Call[int]:
    request = pb.UnloadModelRequest(name=name, version=version, drain=drain)
    return Call("UnloadModel", request, lambda unloaded: int(unloaded.in_use))


def _read_version(message: pb.ModelVersion) -> ModelVersion:
    return ModelVersion(
        name=message.name,
        version=message.version,
        state=_STATES.get(message.state, "unspecified"),
        reason=message.reason,
        sessions=message.sessions,
        current=message.current,
        default=message.is_default,
        info=wire.read_model(message.info) if message.HasField("info") else None,
    )
