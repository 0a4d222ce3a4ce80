"""An observer of the engine for tests."""

from __future__ import annotations

from typing import Any


class Recorder:
    """An observer that keeps what it heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def batch(self, stage: str, size: int, seconds: float) -> None:
        self.heard.append(("batch", stage, size))

    def steps(self, n: int) -> None:
        self.heard.append(("steps", n))

    def psnr(self, db: float) -> None:
        self.heard.append(("psnr", db))

    def queue(self, depth: int) -> None:
        self.heard.append(("queue", depth))

    def window(self, keyframes: int) -> None:
        self.heard.append(("window", keyframes))

    def memory(self, session: int, in_flight: int) -> None:
        self.heard.append(("memory", session, in_flight))

    def largest_batch(self, size: int, *, out_of_memory: bool) -> None:
        self.heard.append(("largest_batch", size, out_of_memory))

    def graphs(self, stage: str, captured: int, direct: int) -> None:
        self.heard.append(("graphs", stage, captured, direct))

    def heartbeat(self) -> None:
        self.heard.append(("heartbeat",))
