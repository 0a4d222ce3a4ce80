"""Frames in flight, between two of their stages: what is known of them lies in tensors that are allocated once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from legato.devices import Device, onto
from legato.inversion.tracker_state import TrackerState
from legato.models import GeneratorConfig
from legato.models.flow import MAX_SIDE
from legato.types import FrameJob

Observe = Callable[[str, int, float], None]  # stage, frames in the batch, seconds


@dataclass(slots=True, eq=False)
class Flight:
    """One frame in flight."""

    row: int  # of the tensors
    job: FrameJob
    taken: int = 0  # refine steps
    kept: bool = True  # whether it moves on the state of its slot
    stage_seconds: dict[str, float] = field(default_factory=dict)


class Stopwatch:
    """Times stages on the device's own time: each frame keeps its own seconds, and `observe` hears of every batch.

    A device that computes on its own is asked once it was waited for anyway: by what `lap` gives.
    """

    def __init__(self, observe: Observe, device: Device) -> None:
        self._observe = observe
        self._device = device
        self._open: list[tuple[Sequence[Flight], str, Any, Any]] = []  # marks of begin and end

    @contextmanager
    def __call__(self, flights: Sequence[Flight], name: str) -> Iterator[None]:
        began = self._device.mark()
        yield
        self._open.append((flights, name, began, self._device.mark()))
        if not self._device.ahead:
            self.lap()()

    def lap(self) -> Callable[[], None]:
        """What it gives waits for the device to come to the end of the stages since the last lap, and takes in their
        times."""
        closed, self._open = self._open, []

        def settle() -> None:
            for flights, name, began, ended in closed:
                seconds = self._device.seconds(began, ended)
                for flight in flights:
                    flight.stage_seconds[name] = flight.stage_seconds.get(name, 0.0) + seconds
                self._observe(name, len(flights), seconds)

        return settle


class Flights:
    """F rows of work in progress. The state of a slot is copied into it, and written back when all went well.

    `state.output` is the slot's last output, warped into the frame in flight, where that takes steps.
    """

    images: Tensor  # [F, 3, R, R] in [-1, 1]
    visible: Tensor  # [F, 1, R, R]: where the warped output shows what the frame shows

    def __init__(
        self, rows: int, *, layers: int, dim: int, resolution: int, flow_side: int, device: torch.device
    ) -> None:
        self.images = torch.zeros(rows, 3, resolution, resolution, device=device)
        self.visible = torch.zeros(rows, 1, resolution, resolution, device=device)
        self.state = TrackerState.zeros(
            rows, layers=layers, dim=dim, resolution=resolution, flow_side=flow_side, device=device
        )
        self._free = list(reversed(range(rows)))
        self._flying: dict[int, Flight] = {}

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flying.values())

    def __len__(self) -> int:
        return len(self._flying)

    def enter(self, jobs: Sequence[FrameJob]) -> list[Flight]:
        """A row for each job. Raises ValueError where there are not enough."""
        if len(jobs) > len(self._free):
            raise ValueError(f"{len(self._free)} of {len(self.images)} rows are free; {len(jobs)} frames came")
        flights = [Flight(self._free.pop(), job) for job in jobs]
        self._flying |= {flight.row: flight for flight in flights}
        return flights

    def leave(self, flights: Iterable[Flight]) -> None:
        """Frees rows; what is not written back yet will not be. A second time does nothing."""
        for flight in flights:
            flight.kept = False
            if self._flying.get(flight.row) is flight:
                del self._flying[flight.row]
                self._free.append(flight.row)

    def index(self, flights: Sequence[Flight]) -> Tensor:
        """The rows of frames, for the tensors."""
        return onto(self.images.device, torch.tensor([flight.row for flight in flights], dtype=torch.int64))


def state_sizes(config: GeneratorConfig) -> dict[str, int]:
    """What the sizes of a model's tensors of state are made of."""
    r = config.resolution
    return {"layers": config.num_layers, "dim": config.w_dim, "resolution": r, "flow_side": min(r, MAX_SIDE)}


def state_bytes(config: GeneratorConfig) -> tuple[int, int]:
    """Bytes that are kept for each session, its window not included, and for each frame in flight."""
    state = TrackerState.zeros(1, **state_sizes(config), device=torch.device("meta"))
    session = sum(getattr(state, item.name).nbytes for item in fields(state))
    return session, session + 4 * (3 + 1) * config.resolution**2
