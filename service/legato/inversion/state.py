"""The state of a solve between two steps, and the file that a killed solve goes on from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from legato.errors import InvalidInput, ModelFileError

VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Adam's memory of one free tensor. Each row has its own age, so that rows of different age share a batch."""

    first: Tensor  # shape of the free tensor
    second: Tensor  # shape of the free tensor
    age: Tensor  # [rows] float32: steps taken

    @staticmethod
    def zeros(free: Tensor) -> Moments:
        """The memory of a free tensor that has taken no step."""
        return Moments(torch.zeros_like(free), torch.zeros_like(free), free.new_zeros(free.shape[0]))


@dataclass(slots=True, eq=False)
class SolveState:
    """Everything that a solve goes on from. What is drawn at random is drawn from the step's number, so is not here."""

    free: tuple[Tensor, ...]
    moments: tuple[Moments, ...]
    step: int = 0  # steps taken
    trace: list[dict[str, Tensor]] = field(default_factory=list)  # per step: unweighted terms [B], and "total"
    best: tuple[Tensor, ...] = ()  # the free tensors at each row's lowest total; empty unless it is kept
    lowest: Tensor | None = None  # [rows]
    mark: Tensor | None = None  # [rows]: the total that has to be beaten not to count as stalled
    stalled: Tensor | None = None  # [rows] int64: steps since it was beaten
    passes: int = 0
    seconds: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """All that is tensors, by name."""
        found = {f"free.{i}": tensor for i, tensor in enumerate(self.free)}
        for i, known in enumerate(self.moments):
            found |= {f"first.{i}": known.first, f"second.{i}": known.second, f"age.{i}": known.age}
        found |= {f"best.{i}": tensor for i, tensor in enumerate(self.best)}
        found |= {f"trace.{name}": values for name, values in stack(self.trace).items()}
        for name in ("lowest", "mark", "stalled"):
            value = getattr(self, name)
            if value is not None:
                found[name] = value
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], step: int, passes: int, seconds: float) -> SolveState:
        """The inverse of `tensors`. Raises KeyError where one is missing."""
        count = sum(name.startswith("free.") for name in tensors)
        kept = sum(name.startswith("best.") for name in tensors)
        trace = {name.removeprefix("trace."): value for name, value in tensors.items() if name.startswith("trace.")}
        return SolveState(
            free=tuple(tensors[f"free.{i}"] for i in range(count)),
            moments=tuple(
                Moments(tensors[f"first.{i}"], tensors[f"second.{i}"], tensors[f"age.{i}"]) for i in range(count)
            ),
            step=step,
            trace=[{name: values[k] for name, values in trace.items()} for k in range(step)],
            best=tuple(tensors[f"best.{i}"] for i in range(kept)),
            lowest=tensors.get("lowest"),
            mark=tensors.get("mark"),
            stalled=tensors.get("stalled"),
            passes=passes,
            seconds=seconds,
        )


def stack(trace: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A trace, per term: [steps, B]."""
    return {name: torch.stack([losses[name] for losses in trace]) for name in (trace[0] if trace else ())}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the state of a solve is kept, and what the solve is about.

    `identity` is a digest of everything that the result depends on; a file of another identity is refused, because its
    state would go on towards something else. Methods add their own parts with `about`.
    """

    path: Path
    every: int = 50  # steps between two writings
    identity: str = ""

    def about(self, *parts: object) -> Checkpoint:
        """This checkpoint for a solve that depends on `parts`: tensors by their bytes, all others by their repr."""
        sha = hashlib.sha256(self.identity.encode())
        for part in parts:
            if isinstance(part, Tensor):
                tensor = part.detach().cpu().contiguous()
                sha.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
                sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
            else:
                sha.update(f"{part!r}\n".encode())
        return replace(self, identity=sha.hexdigest())

    def numbered(self, index: int) -> Checkpoint:
        """The checkpoint of one of several solves of a run: a file of its own beside this one."""
        return replace(self, path=self.path.with_name(f"{self.path.stem}.{index}{self.path.suffix}"))

    def save(self, state: SolveState) -> None:
        """Writes the state, whole or not at all. Raises ModelFileError where it cannot be written."""
        note = {
            "version": VERSION,
            "identity": self.identity,
            "step": state.step,
            "passes": state.passes,
            "seconds": state.seconds,
        }
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            save_file(state.tensors(), partial, metadata={"legato_solve": json.dumps(note, sort_keys=True)})
            os.replace(partial, self.path)
        except (OSError, SafetensorError) as error:
            raise ModelFileError(
                f"the state of the solve at step {state.step} cannot be written to {self.path}: {error}. Make room or "
                "name another folder, then start again: what was written before is still there"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def load(self, device: torch.device) -> SolveState | None:
        """The state to go on from, or None where there is no file.

        Raises ModelFileError for a file that is no state of a solve, InvalidInput for that of another solve.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt", device=str(device)) as file:
                note = json.loads((file.metadata() or {})["legato_solve"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if note["version"] != VERSION:
                raise ModelFileError(
                    f"{self.path} holds the state of a solve in version {note['version']!r}; this legato reads "
                    f"{VERSION}. Remove it to begin afresh"
                )
            state = SolveState.from_tensors(tensors, note["step"], note["passes"], note["seconds"])
            found = str(note["identity"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, IndexError) as error:
            raise ModelFileError(
                f"{self.path} holds no state of a solve that can be read ({type(error).__name__}: {error}). "
                "Remove it to begin afresh"
            ) from error
        if found != self.identity:
            raise InvalidInput(
                f"{self.path} holds the state of another solve: its images, model or options differ from these. "
                "Remove it to begin afresh, or name another file",
                reason="OTHER_SOLVE",
            )
        return state
