"""`legato serve`: one model behind gRPC, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import legato
from legato import config, logs
from legato.errors import ConfigError
from legato.memory import keep_freed_memory, return_freed_memory
from legato.models_served import Models
from legato.repository import Repository, Source
from legato.settings import Key
from legato.turns import Turns

if TYPE_CHECKING:
    from legato.config import Config, EngineConfig
    from legato.engine import Engine
    from legato.metrics import Metrics
    from legato.rpc.server import Server

ENGINE_STOP_SECONDS = 2.0

log = logging.getLogger(__name__)

EPILOG = """
Settings come from defaults < the TOML file < the environment < these options. In the file they live in [server] and
[engine]; in the environment --max-pixels is LEGATO_SERVER__MAX_PIXELS, --max-steps is LEGATO_ENGINE__MAX_STEPS.
When the server answers, it prints one line, `legato listening on HOST:PORT metrics on HOST:PORT`.
SIGTERM or SIGINT drains it (exit code 0); a second one ends it at once. A device that fails ends it with exit code 1.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """One option for every key of the configuration."""
    parser = subparsers.add_parser(
        "serve",
        help="serve models over gRPC",
        description="Serves models over gRPC: streams of video frames, inverted, edited and sent back.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with [server] and [engine] (default: LEGATO_CONFIG)"
    )
    groups = {section: parser.add_argument_group(section) for section in config.SECTIONS}
    for key in config.all_keys().values():
        section = key.name.partition(".")[0]
        more: dict[str, Any] = {"nargs": "?", "const": "true"} if key.type is bool else {}
        groups[section].add_argument(key.flag, dest=key.name, metavar=_metavar(key), help=_help(key), **more)


def run(args: argparse.Namespace) -> int:
    """Serves until stopped. Raises ConfigError, ModelFileError, BackendUnavailable for what keeps it from starting."""
    flags = {name: getattr(args, name) for name in config.all_keys() if getattr(args, name) is not None}
    settings = config.load(args.config, flags=flags)
    keep_freed_memory()
    logs.configure(settings.server.log_format, settings.server.log_level)
    asyncio.run(_serve(settings))
    return 0


def build_engine(
    settings: EngineConfig, observer: Metrics | None = None, *, source: Source | None = None, turns: Turns | None = None
) -> Engine:
    """An engine with the model that the settings name, or that of a source, not started. It takes seconds.

    `turns` are those of all engines that share its device. Raises ModelFileError for weights that are missing, damaged
    or do not fit together, BackendUnavailable for an op without a kernel.
    """
    from legato.devices import find_device
    from legato.editing.directions import load_directions
    from legato.engine import Engine
    from legato.engine_options import EngineOptions
    from legato.inversion.streaming import TrackerOptions
    from legato.inversion.window import WindowOptions
    from legato.models import load_encoder, load_generator
    from legato.models.raft import load_raft
    from legato.models.refiners import load_refiners
    from legato.ops import cuda_half, require_backends
    from legato.scheduler import Scheduler

    device = find_device(settings.device)
    require_backends("cpu")  # flow is found there, wherever the model is
    ops = require_backends(device)
    if observer is not None:
        observer.ops(ops)
    source = source or single_source(settings)
    generator = load_generator(source.path).to(device)
    encoder = load_encoder(source.encoder or source.path, generator).to(device)
    refiners = load_refiners(source.encoder or source.path, generator, encoder)
    directions = load_directions(source.directions or source.path, generator_digest=generator.digest).to(device)
    log.info("ops", extra={"fields": {**ops, "device": str(device), "cuda_half": cuda_half()}})
    log.info("refinement", extra={"fields": refiners.told})
    return Engine(
        generator,
        encoder,
        directions,
        refiners=refiners,
        queue=Scheduler(
            capacity=settings.queue_size,
            buckets=settings.buckets,
            max_wait=settings.max_wait_seconds,
            in_flight=settings.in_flight,
        ),
        options=EngineOptions(
            max_sessions=settings.max_sessions,
            batch_buckets=settings.buckets,
            in_flight=settings.in_flight,
            max_steps=settings.max_steps,
            clips=settings.clips,
            clip_rows=settings.clip_rows,
            threads=settings.threads,
            flow=load_raft(settings.flow_weights, generator.w_avg.device) if settings.flow == "raft" else None,
            deltas=settings.deltas,
            precision=settings.precision,  # type: ignore[arg-type]  # one of its choices
            tracker=TrackerOptions(
                lr=settings.refine_lr,
                flow_weight=settings.refine_flow_weight,
                prior_weight=settings.refine_prior_weight,
                smoothing=settings.refine_smoothing,
                residual_steps=settings.residual_steps,
            ),
            window=WindowOptions(
                share=settings.share,
                keyframes=settings.window_keyframes,
                rows=settings.window_rows,
                blend_seconds=settings.window_blend_seconds,
            ),
            turns=turns or Turns(),
        ),
        name=source.name,
        version=source.version,
        observer=observer,
    )


def single_source(settings: EngineConfig) -> Source:
    """The model of --model, --encoder and --directions."""
    path = settings.model or config.DEFAULT_MODEL
    return Source(Path(path).name, "", path, settings.directions, settings.encoder)


def build_models(settings: EngineConfig, metrics: Metrics) -> Models:
    """Models of the folder and the model that the settings name, loaded and warm. It takes seconds for each.

    Raises as `build_engine`, and ConfigError where there is nothing to serve.
    """
    turns = Turns()
    repository = Repository(settings.models or None)
    inside = settings.model in repository.names
    if not inside and (settings.model or not settings.models):
        repository = Repository(settings.models or None, single_source(settings))
        default = repository.names[0]
    else:
        default = settings.model
    models = Models(
        repository,
        lambda source: build_engine(settings, metrics, source=source, turns=turns),
        tidy=_tidy,
        observer=metrics,
    )
    try:
        models.start(default)
    except BaseException:
        models.stop(0.0)
        raise
    return models


def _tidy() -> None:
    """After a model came or went: collections need not look through those that stay, which takes 0.1 s each time."""
    gc.collect()
    gc.freeze()
    return_freed_memory()


async def _serve(settings: Config) -> None:
    from legato.metrics import Metrics
    from legato.rpc.server import Server

    stop = _stop_signal()
    metrics = Metrics(version=legato.__version__)
    async with Server(settings, metrics) as server:
        models = await asyncio.to_thread(build_models, settings.engine, metrics)
        try:
            await server.start(models)
            with _announced(server, models, settings):
                await _first(stop, server.failed)
                if server.failed.is_set():
                    models.over.result()
                await server.drain()
        finally:
            await asyncio.to_thread(models.stop, ENGINE_STOP_SECONDS)
    log.info("stopped")


async def _first(*events: asyncio.Event) -> None:
    """Waits for one of them."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second one acts as if nobody listened."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    wanted = (signal.SIGTERM, signal.SIGINT)

    def first() -> None:
        stop.set()
        for number in wanted:
            loop.remove_signal_handler(number)

    for number in wanted:
        loop.add_signal_handler(number, first)
    return stop


@contextlib.contextmanager
def _announced(server: Server, models: Models, settings: Config) -> Iterator[None]:
    """Tells where the server listens: on stdout, in the log, in the ready file while it lasts."""
    fields: dict[str, Any] = {"address": server.address, "metrics": server.metrics_address, "pid": os.getpid()}
    ready = Path(settings.server.ready_file) if settings.server.ready_file else None
    if ready:
        partial = ready.with_name(ready.name + ".partial")
        try:
            partial.write_text(json.dumps(fields) + "\n", encoding="utf-8")
            partial.replace(ready)
        except OSError as error:
            raise ConfigError(f"the ready file {ready} cannot be written: {error.strerror}") from error
    log.info("listening", extra={"fields": {**fields, "models": [one.source.label for one in models.listed()]}})
    print(f"legato listening on {server.address} metrics on {server.metrics_address or 'none'}", flush=True)
    try:
        yield
    finally:
        if ready:
            ready.unlink(missing_ok=True)


def _metavar(key: Key) -> str:
    if key.setting.choices:
        return "{" + ",".join(key.setting.choices) + "}"
    return {int: "N", float: "X", str: "TEXT", bool: "true|false"}.get(key.type, "N,N,...")


def _help(key: Key) -> str:
    default = ",".join(map(str, key.default)) if isinstance(key.default, tuple) else key.default
    default = str(default).lower() if key.type is bool else default
    unit = f"; {key.setting.unit}" if key.setting.unit else ""
    return f"{key.setting.help}{unit} (default: {'none' if default == '' else default})".replace("%", "%%")
