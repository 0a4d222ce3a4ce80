"""A server of a folder of tiny models with versions, and what tests ask of it."""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from legato.commands.serve import build_models
from legato.config import Config, EngineConfig, ServerConfig
from legato.metrics import Metrics
from legato.models_served import Models
from legato.rpc.server import serve_in_thread
from legato_pb import inversion_pb2 as pb
from legato_pb import inversion_pb2_grpc
from tests.rpc.model import save_tiny_model
from tests.rpc.running import Running

MAX_SESSIONS = 4
STATES = {value: name.removeprefix("MODEL_STATE_") for name, value in pb.ModelState.items()}


class Shelf:
    """A folder of models, filled from tiny ones that were saved once, each with digests of its own."""

    def __init__(self, saved: Path, folder: Path) -> None:
        self._saved = saved
        self.folder = folder

    def put(self, place: str, seed: int = 0) -> Path:
        """Lays the model of a seed at "name/version", whole at once, as an operator should."""
        saved = self._saved / str(seed)
        if not saved.is_dir():
            save_tiny_model(saved, seed)
        target = self.folder / place
        partial = target.with_name(f"{target.name}.partial")
        shutil.copytree(saved, partial)
        partial.rename(target)
        return target


class Versions(Running):
    """A server that runs with its models."""

    models: Models

    def load(self, name: str, version: str = "", **options: Any) -> pb.ModelVersion:
        request = pb.LoadModelRequest(name=name, version=version, **options)
        return self.stub.LoadModel(request, timeout=120).version

    def unload(self, name: str, version: str = "", **options: Any) -> int:
        """Sessions and calls that are waited for."""
        return self.stub.UnloadModel(pb.UnloadModelRequest(name=name, version=version, **options), timeout=120).in_use

    def listed(self, **options: Any) -> dict[str, str]:
        """Each version's state: {"face@2": "READY"}."""
        found = self.stub.ListModels(pb.ListModelsRequest(**options)).versions
        return {label(version): STATES[version.state] for version in found}

    def opened(self, model: str = "") -> str:
        """The version that a name opens now: "face@2"."""
        with self.wire().open(model=model) as wire:
            wire.send(close=pb.Close())
            wire.rest()
        return label(wire.opened.model)


def label(message: pb.ModelInfo | pb.ModelRef | pb.ModelVersion) -> str:
    return f"{message.name}@{message.version}" if message.version else message.name


def damage(folder: Path) -> Path:
    """One bit of a weight."""
    file = folder / "encoder.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    return file


@contextlib.contextmanager
def serving(folder: Path, *, model: str = "", **settings: Any) -> Iterator[Versions]:
    """A real server of a folder that lets its clients load and unload; keywords change its [server] settings."""
    server = {"port": 0, "metrics_port": -1, "drain_seconds": 0.2, "allow_model_control": True, **settings}
    engine = EngineConfig(
        model=model, models=str(folder), max_sessions=MAX_SESSIONS, batch_buckets=(1,), max_steps=1, threads=1
    )
    metrics = Metrics(version="test")
    models = build_models(engine, metrics)
    try:
        with (
            serve_in_thread(Config(ServerConfig(**server), engine), metrics, models) as running,
            grpc.insecure_channel(running.address) as channel,
        ):
            stub = inversion_pb2_grpc.InversionServiceStub(channel)
            versions = Versions(running, metrics, channel, stub)
            versions.models = models
            yield versions
    finally:
        models.stop(0.0)
        gc.unfreeze()  # what a server keeps for ever is not for ever here
