"""One version of a model: whether it is in memory, who uses it, who hears of it. No torch here."""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from legato.errors import LegatoError, ModelFileError
from legato.repository import Files, Source
from legato.types import ModelInfo

if TYPE_CHECKING:
    from legato.engine import Engine

log = logging.getLogger(__name__)


class State(enum.Enum):
    """Of a version. UNLOADED ones lie in the folder and are in no list of those that are served."""

    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"  # it serves the sessions that it has, and takes no new ones
    FAILED = "FAILED"
    UNLOADED = "UNLOADED"


class ModelsObserver(Protocol):
    """Hears what becomes of models. It must not block."""

    def model(self, name: str, versions: int, sessions: int) -> None: ...
    def model_load(self, name: str, outcome: str, seconds: float) -> None: ...


class Unobserved:
    """Hears nothing."""

    def model(self, name: str, versions: int, sessions: int) -> None: ...
    def model_load(self, name: str, outcome: str, seconds: float) -> None: ...


@dataclass(slots=True, eq=False)
class Served:
    """One version of a model. Its slots are those of its engine, counted: a session that has one uses this version."""

    source: Source
    changed: Callable[[Served], None]  # told of every change in who uses it, with the lock held
    lock: threading.Lock
    files: Files
    beside: bool = False
    state: State = State.LOADING
    reason: str = ""  # why it FAILED
    sessions: int = 0
    calls: int = 0
    info: ModelInfo | None = None  # once it is READY
    loaded: Future[None] = field(default_factory=Future)
    freed: Future[None] = field(default_factory=Future)
    running: Engine | None = None

    @property
    def engine(self) -> Engine:
        """Of a version that somebody uses."""
        assert self.running is not None, f"{self.source.label} is {self.state.value}"
        return self.running

    @property
    def used(self) -> int:
        """Sessions and calls."""
        return self.sessions + self.calls

    def start(self, build: Callable[[Source], Engine]) -> LegatoError | None:
        """Builds and warms the engine. What went wrong, without the memory that its traceback holds."""
        engine = None
        try:
            engine = build(self.source)
            engine.start()
        except LegatoError as error:
            wrong = error
        except Exception as error:
            log.exception("a model could not be loaded")
            wrong = ModelFileError(
                f"{self.source.label} could not be made ready ({type(error).__name__}: {error}); the server's log has "
                "the details. What was served before still is",
                reason="MODEL_FAILED",
            )
        else:
            self.running, self.info = engine, engine.model
            return None
        if engine is not None:
            engine.release()
        wrong.__cause__ = wrong.__context__ = None
        return wrong.with_traceback(None)

    def open_slot(self) -> int:
        """A slot of the engine. Raises Overloaded."""
        slot = self.engine.open_slot()
        self._count(sessions=1)
        return slot

    def close_slot(self, slot: int) -> None:
        """Frees a slot; the last one of a version that drains frees its memory, soon."""
        self.engine.close_slot(slot)
        self._count(sessions=-1)

    def end_call(self) -> None:
        """A call has its answer."""
        self._count(calls=-1)

    def _count(self, *, sessions: int = 0, calls: int = 0) -> None:
        with self.lock:
            self.sessions += sessions
            self.calls += calls
            self.changed(self)
