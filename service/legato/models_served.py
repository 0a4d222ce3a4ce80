"""Which models are in memory, in which versions. No torch here: what builds an engine is given.

    load:    LOADING -> READY, from then on what the model's bare name opens; or FAILED, and all stays as it was
    replace: READY -> DRAINING when another version took its place or an unload said so; freed with its last user

A session uses the version that it was opened with, until it is closed or expires; a call, until it has its answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from legato.errors import ConfigError, LegatoError, ModelFileError, NotFound, ProtocolViolation, ShuttingDown
from legato.repository import Files, Repository, Source
from legato.served import ModelsObserver, Served, State, Unobserved
from legato.threads import PassingThread

if TYPE_CHECKING:
    from legato.engine import Engine

STOP_SECONDS = 2.0  # what an engine that nobody uses may still take to stop

log = logging.getLogger(__name__)


class Models:
    """The models of a server. Every method may be called from any thread; none but `start` and `stop` waits for work.

    Args:
        repository: what there is to load.
        build: makes an engine of a source, not started; it takes seconds, and raises what is wrong with the files.
        tidy: called after a model was loaded or freed, and its garbage can be collected.
        observer: hears what happens.
    """

    def __init__(
        self,
        repository: Repository,
        build: Callable[[Source], Engine],
        *,
        tidy: Callable[[], object] = lambda: None,
        observer: ModelsObserver | None = None,
    ) -> None:
        self.default = ""  # the name that an empty one means
        self.repository = repository
        self._build = build
        self._tidy = tidy
        self._observer = observer or Unobserved()
        self._lock = threading.Lock()
        self._all: list[Served] = []
        self._current: dict[str, Served] = {}  # by name: what it opens
        self._loader = PassingThread("legato-models")  # one model is loaded at a time
        self._stopping = False
        self.over: Future[None] = Future()  # ends with the error of the first engine that failed

    @classmethod
    def of(cls, engine: Engine) -> Models:
        """One engine that runs already, and stays the caller's."""
        models = cls(Repository(single=Source(engine.model.name, engine.model.version, "")), _not_built)
        models.default = engine.model.name
        served = models._new(models.repository.find(models.default), beside=False)
        served.running, served.info = engine, engine.model
        engine.over.add_done_callback(models._engine_over)
        served.loaded.set_result(None)
        models._make_current(served)
        return models

    def start(self, default: str = "") -> None:
        """Loads the newest version of every model; of a model whose newest cannot be served, the newest that can.

        `default` is the model that an empty name means; "": the first that can be served. Raises what is wrong with its
        newest version where none can be, ConfigError where there is no model. Others that cannot be served are logged,
        and listed as FAILED.
        """
        names = sorted(self.repository.names, key=lambda name: name != default)
        wrong = [error for name in names if (error := self._load_any(name)) is not None]
        with self._lock:
            self.default = default or next((name for name in names if name in self._current), "")
        if self.default not in self._current:
            raise wrong[0] if wrong else ConfigError("there is no model to serve: the folder of --models holds none")
        for served in self.listed():
            if served.state is State.FAILED:
                _tell(served)

    def load(self, name: str, version: str = "", *, beside: bool = False) -> Served:
        """Begins to load a version ("" is the newest); its `loaded` raises what is wrong with it.

        Once it is warm it becomes what the bare name opens, and the version that was drains. With `beside` it is opened
        as name@version alone. A version that is in memory, and whose files are the same, is not loaded again. Raises
        NotFound for what is not in the folder, ShuttingDown after `stop`.
        """
        source = self.repository.find(name, version)
        files = source.files()
        with self._lock:
            if self._stopping:
                raise ShuttingDown("the server is stopping; load the model on another one")
            known = [served for served in self._all if served.source == source and served.files == files]
            for served in known:
                if served.state is State.LOADING:
                    served.beside = served.beside and beside
                    return served
                if served.state in (State.READY, State.DRAINING):
                    served.beside = beside
                    self._make_current(served)
                    return served
            self._all = [old for old in self._all if old.source != source or old.state is not State.FAILED]
            served = self._new(source, beside=beside, files=files)
            served.loaded = self._loader.submit(self._load, served)
            return served

    def unload(self, name: str, version: str = "", *, drain: bool = False) -> list[Served]:
        """Takes a version of a model ("": all) out of service; gives back those whose memory will be freed.

        Those that are used go on until their last session is closed, with `drain`; without it nothing is unloaded where
        one is used. Raises NotFound for what is not loaded, ProtocolViolation (MODEL_IN_USE, MODEL_LOADING).
        """
        with self._lock:
            found = [one for one in self._all if one.source.name == name and version in ("", one.source.version)]
            if not found:
                raise self._unknown(f"{name}@{version}" if version else name)
            if any(served.state is State.LOADING for served in found):
                raise ProtocolViolation(f"{name!r} is being loaded; wait until that is over", reason="MODEL_LOADING")
            used = sum(served.used for served in found)
            if used and not drain:
                raise ProtocolViolation(
                    f"{used} sessions and calls use {name!r}; drain it, and it is unloaded with the last of them",
                    reason="MODEL_IN_USE",
                )
            self._all = [one for one in self._all if one not in found or one.state is not State.FAILED]
            leaving = [served for served in found if served.state is not State.FAILED]
            for served in leaving:
                self._drain(served)
            return leaving

    @contextmanager
    def use(self, model: str) -> Iterator[Served]:
        """The version that "", "name" or "name@version" opens; it stays in memory inside.

        Raises NotFound (MODEL_NOT_FOUND).
        """
        with self._lock:
            served = self._current.get(model or self.default) or next(
                (one for one in self._all if one.state is State.READY and one.source.label == model), None
            )
            if served is None:
                raise self._unknown(model)
            served.calls += 1
        try:
            yield served
        finally:
            served.end_call()

    def is_current(self, served: Served) -> bool:
        """Whether a bare name opens this version."""
        return self._current.get(served.source.name) is served

    def listed(self) -> list[Served]:
        """All versions but those that are unloaded: the default model first, of each the newest first."""
        with self._lock:
            order = [(one.source.name != self.default, one.source.name, -one.source.number) for one in self._all]
            return [served for _, _, served in sorted(zip(order, range(len(order)), self._all, strict=True))]

    @property
    def engines(self) -> list[Engine]:
        """Those that serve."""
        with self._lock:
            return [one.running for one in self._all if one.running and one.state in (State.READY, State.DRAINING)]

    @property
    def heartbeat(self) -> float:
        """Monotonic time of the last sign of life of the engine that has been silent for longest; now without any."""
        return min((engine.heartbeat for engine in self.engines), default=time.monotonic())

    @property
    def queue_depth(self) -> int:
        """Frames that wait, over all models."""
        return sum(engine.queue_depth for engine in self.engines)

    def stop(self, timeout: float) -> None:
        """Loads nothing any more, and stops every engine. A load that has begun is waited for."""
        with self._lock:
            self._stopping = True
        self._loader.shutdown(cancel_futures=True)
        for engine in self.engines:
            engine.stop(timeout)

    # the lock is held -----------------------------------------------------------------------------------------------

    def _new(self, source: Source, *, beside: bool, files: Files = ()) -> Served:
        served = Served(source, self._changed, self._lock, files, beside)
        self._all.append(served)
        return served

    def _make_current(self, served: Served) -> None:
        """A version is ready: it takes the place of the one that the name opened, and of another copy of itself."""
        name = served.source.name
        old = self._current.get(name)
        served.state = State.READY
        if old is None or not served.beside:
            self._current[name] = served
        replaced = [old] if old is not None and self._current[name] is served else []
        replaced += [one for one in self._all if one.source == served.source and one.state is State.READY]
        for other in replaced:
            if other is not served:
                self._drain(other)
        self._changed(served)

    def _drain(self, served: Served) -> None:
        served.state = State.DRAINING
        name = served.source.name
        if self._current.get(name) is served:
            ready = [one for one in self._all if one.source.name == name and one.state is State.READY]
            self._current.pop(name)
            if ready:
                self._current[name] = max(ready, key=lambda one: one.source.number)
        self._changed(served)

    def _changed(self, served: Served) -> None:
        if served.state is State.DRAINING and not served.used and served in self._all:
            self._all.remove(served)
            threading.Thread(target=self._free, args=(served,), name="legato-free", daemon=True).start()
        same = [one for one in self._all if one.source.name == served.source.name and one.running is not None]
        self._observer.model(served.source.name, len(same), sum(one.sessions for one in same))

    def _unknown(self, model: str) -> NotFound:
        known = [f"{one.source.label!r} ({one.state.value.lower()})" for one in self._all]
        return NotFound(
            f"unknown model {model[:100]!r}; this server has {', '.join(known) or 'none'}", reason="MODEL_NOT_FOUND"
        )

    # threads of their own -------------------------------------------------------------------------------------------

    def _load_any(self, name: str) -> LegatoError | None:
        """Loads the newest version that can be served; what is wrong with the newest if none can."""
        wrong: list[LegatoError] = []
        for source in self.repository.versions(name):
            try:
                self.load(name, source.version).loaded.result()
                return None
            except LegatoError as error:
                wrong.append(error)
        return wrong[0] if wrong else None

    def _load(self, served: Served) -> None:
        name, began = served.source.name, time.monotonic()
        error = served.start(self._build)
        seconds = time.monotonic() - began
        if error is None:
            served.engine.over.add_done_callback(self._engine_over)
        with self._lock:
            if error is None:
                self._make_current(served)
            else:
                served.state, served.reason = State.FAILED, str(error)
        self._observer.model_load(name, "loaded" if error is None else "failed", seconds)
        self._tidy()
        if error is not None:
            if self.default:
                _tell(served)
            raise error
        log.info("model loaded", extra={"fields": {"model": served.source.label, "seconds": round(seconds, 2)}})

    def _engine_over(self, over: Future[None]) -> None:
        """On the thread of an engine that has ended; it waits for who waits for this."""
        error = over.exception()
        if error is not None:
            with suppress(InvalidStateError):  # another one was faster
                self.over.set_exception(error)

    def _free(self, served: Served) -> None:
        """Stops the engine of a version that nobody uses, and lets its memory go."""
        try:
            served.engine.stop(STOP_SECONDS)
            served.engine.release()
            served.running = None
            self._tidy()
            log.info("model unloaded", extra={"fields": {"model": served.source.label}})
        finally:
            served.freed.set_result(None)


def _tell(failed: Served) -> None:
    log.error("a model could not be loaded", extra={"fields": {"model": failed.source.label, "reason": failed.reason}})


def _not_built(source: Source) -> NoReturn:
    raise ModelFileError(f"{source.label} came with the server, and cannot be loaded again")
