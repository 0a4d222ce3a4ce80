"""Load on a server: many sessions, each a camera of its own, and what became of every frame.

Open loop (`fps` > 0): a frame is due at its time whether or not answers come, and its age counts from then, so a stall
is paid by every frame that it delayed. Closed loop (`fps` 0): as fast as answers come, what the server can do.
"""

from __future__ import annotations

import asyncio
import math
import resource
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legato_client.async_client import AsyncClient
from legato_client.async_session import AsyncSession
from legato_client.client import Client
from legato_client.errors import Overloaded
from legato_client.images import Picture
from legato_client.report import Percentiles, percentiles
from legato_client.types import Answer, Budget, Dropped, Edit, Failed, FrameResult, Outputs, Policy

MISSED_ALLOWED = 0.01  # of a session's frames may be dropped where it is held
START_SECONDS = 0.05  # between the last session's opening and the first frame


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the server."""

    sessions: int = 1
    fps: float = 25.0  # of each camera; 0: closed loop
    seconds: float = 10.0  # that count
    warm_seconds: float = 1.0  # before them
    steps: int = 0
    deadline_seconds: float = 0.0  # 0: the server's
    policy: Policy = "ordered"
    edits: tuple[Edit, ...] = ()
    outputs: Outputs = field(default_factory=Outputs)
    in_flight: int = 0  # 0: what the server grants; of a closed loop 2
    model: str = ""


@dataclass(slots=True)
class Seen:
    """One answered frame. Times in seconds after the start; `due` of a closed loop is the hand-over."""

    due: float
    age: float
    psnr_db: float | None
    steps: int
    server_seconds: float


class Camera:
    """One session's frames and their fates. Only frames that are due in the counted time count."""

    def __init__(self, load: Load, frames: Sequence[Picture], number: int, begun: float) -> None:
        self._load, self._frames, self._begun = load, frames, begun
        # Cameras do not tick together: phases are spread over a period, starts over the clip.
        self._phase = number / load.sessions / load.fps if load.fps else 0.0
        self._first = number * 7
        self._due: list[float] = []
        self.seen: list[Seen] = []
        self.dropped: Counter[str] = Counter()
        self.misses: list[float] = []  # due times of frames without a result
        self.failed = self.unsent = 0
        self.complaint = ""
        self.stages: defaultdict[str, float] = defaultdict(float)

    @property
    def offered(self) -> int:
        """Frames of the counted time that were sent, or should have been."""
        return sum(self._counts(due) for due in self._due) + self.unsent

    async def run(self, session: AsyncSession) -> None:
        """Streams until the time is up; raises the stream's error where it breaks."""
        async for answer in session.stream(self._shots()):
            self._take(answer)

    async def _shots(self) -> AsyncIterator[Picture]:
        load, index = self._load, 0
        end = load.warm_seconds + load.seconds
        while (due := self._phase + index / load.fps if load.fps else self._now()) < end:
            await asyncio.sleep(max(0.0, due - self._now()))
            if load.fps and self._now() >= end:  # held up by frames before it
                self.unsent += self._counts(due)
            else:
                self._due.append(due)
                yield self._frames[(self._first + index) % len(self._frames)]
            index += 1

    def _take(self, answer: Answer) -> None:
        due = self._due[answer.seq - 1]
        if not self._counts(due):
            return
        match answer:
            case FrameResult():
                age = self._now() - due
                self.seen.append(Seen(due, age, answer.psnr_db, answer.steps, answer.server_seconds))
                for stage, seconds in answer.stage_seconds.items():
                    self.stages[stage] += seconds
            case Dropped():
                self.dropped[answer.reason] += 1
                self.misses.append(due)
            case Failed():
                self.failed += 1
                self.complaint = self.complaint or answer.message
                self.misses.append(due)

    def _counts(self, due: float) -> bool:
        return self._load.warm_seconds <= due < self._load.warm_seconds + self._load.seconds

    def _now(self) -> float:
        return time.monotonic() - self._begun


def put(address: str, frames: Sequence[Picture], load: Load) -> dict[str, Any]:
    """Puts a load on the server; the figures, ready for JSON. Raises LegatoError where no session can be opened."""
    return asyncio.run(_put(address, frames, load))


def walk(client: Client, count: int, model: str = "") -> list[NDArray[np.uint8]]:
    """Frames that the server draws itself: codes on the way from one seed to another and back. For want of a clip."""
    first, last = (np.asarray(client.synthesize(seed=seed, model=model).latents, np.float32) for seed in (1, 2))
    frames = []
    for index in range(count):
        part = np.float32(0.5 - 0.5 * math.cos(2 * math.pi * index / count))
        code = first + part * (last - first)
        frames.append(client.synthesize(latents=code, model=model).image.pixels)
    return frames


async def _put(address: str, frames: Sequence[Picture], load: Load) -> dict[str, Any]:
    spent = _cpu_seconds()
    async with AsyncClient(address) as client, AsyncExitStack() as stack:
        sessions: list[AsyncSession] = []
        refused = 0
        for _ in range(load.sessions):
            try:
                sessions.append(await stack.enter_async_context(_opening(client, load)))
            except Overloaded:
                refused += 1
                if not sessions:
                    raise
        begun = time.monotonic() + START_SECONDS
        cameras = [Camera(load, frames, number, begun) for number in range(len(sessions))]
        await asyncio.gather(*(camera.run(s) for camera, s in zip(cameras, sessions, strict=True)))
        wall = time.monotonic() - begun
    return _figures(load, cameras, refused) | {"load_cpus": round((_cpu_seconds() - spent) / wall, 3)}


def _opening(client: AsyncClient, load: Load) -> Any:
    return client.open(
        model=load.model,
        edits=load.edits,
        policy=load.policy,
        budget=Budget(load.steps, load.deadline_seconds),
        outputs=load.outputs,
        in_flight=load.in_flight or (0 if load.fps else 2),
    )


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _figures(load: Load, cameras: Sequence[Camera], refused: int) -> dict[str, Any]:
    seen = [one for camera in cameras for one in camera.seen]
    dropped = sum((camera.dropped for camera in cameras), Counter[str]())
    failed, unsent = sum(camera.failed for camera in cameras), sum(camera.unsent for camera in cameras)
    offered = sum(camera.offered for camera in cameras)
    stages: Counter[str] = Counter()
    for camera in cameras:
        stages.update(camera.stages)
    complaint = next((camera.complaint for camera in cameras if camera.complaint), None)
    return {
        "sessions": len(cameras),
        "refused": refused,
        "held": sum(_held(camera, load) for camera in cameras) if load.fps else None,
        "offered": offered,
        "answered": len(seen),
        "dropped": dict(dropped),
        "failed": failed,
        "first_failure": complaint,
        "unsent": unsent,
        "untold": offered - unsent - len(seen) - failed - sum(dropped.values()),  # neither answered nor told dropped
        "fps": round(len(seen) / load.seconds, 2),
        "age_ms": _ages([one.age for one in seen]),
        "server_ms": _ages([one.server_seconds for one in seen]),
        "stage_ms": {stage: round(total / max(len(seen), 1) * 1e3, 3) for stage, total in sorted(stages.items())},
        "steps": _mean([one.steps for one in seen]),
        "psnr_db": _mean([one.psnr_db for one in seen if one.psnr_db is not None]),
        "by_second": [_second(load, cameras, number) for number in range(math.ceil(load.seconds))],
    }


def _held(camera: Camera, load: Load) -> bool:
    """Whether a session got its answers within a frame period (99 of 100), nearly all of them."""
    late = float(np.percentile([one.age for one in camera.seen], 99)) if camera.seen else math.inf
    missed = camera.offered - len(camera.seen)
    return late <= 1.0 / load.fps and missed <= MISSED_ALLOWED * camera.offered


def _second(load: Load, cameras: Sequence[Camera], number: int) -> dict[str, Any]:
    first = load.warm_seconds + number
    seen = [one for camera in cameras for one in camera.seen if first <= one.due < first + 1.0]
    return {
        "answered": len(seen),
        "missed": sum(first <= due < first + 1.0 for camera in cameras for due in camera.misses),
        "age_p99_ms": percentiles([one.age for one in seen])["p99"] if seen else None,
        "steps": _mean([one.steps for one in seen]),
        "psnr_db": _mean([one.psnr_db for one in seen if one.psnr_db is not None]),
    }


def _ages(seconds: Sequence[float]) -> Percentiles | None:
    return percentiles(seconds) if seconds else None


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None
