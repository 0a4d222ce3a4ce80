"""Real servers for the client's tests: `legato serve` in a process of its own, with a tiny model of random weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from legato_client import Client, Overloaded, Session

START_SECONDS = 120.0  # a stalled machine, not a slow server
STOP_SECONDS = 60.0


@dataclass
class Running:
    """A server that answers."""

    process: subprocess.Popen[bytes]
    address: str
    metrics: str
    log: Path

    def stop(self) -> int:
        """Asks it to stop as an operator does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Takes it away without a word."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)


@contextmanager
def serving(model: Path, folder: Path, **settings: object) -> Iterator[Running]:
    """`legato serve` on free ports; `settings` are its options. Its log is shown where it does not come up."""
    folder.mkdir(parents=True, exist_ok=True)
    ready, log = folder / "ready.json", folder / "server.log"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "legato", "serve", f"--model={model}", "--port=0", "--metrics-port=0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--ready-file={ready}", *flags], stdout=output, stderr=output, env={**os.environ}
        )
    try:
        facts = _facts(process, ready, log)
        yield Running(process, facts["address"], facts["metrics"], log)
    finally:
        process.kill()
        process.wait(STOP_SECONDS)


def open_soon(client: Client) -> Session:
    """A session as soon as there is room for it: those that lost their stream are let go one by one."""
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        try:
            return client.open()
        except Overloaded:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _facts(process: subprocess.Popen[bytes], ready: Path, log: Path) -> dict[str, str]:
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the server did not come up:\n{log.read_text()}")
        time.sleep(0.02)
    facts: dict[str, str] = json.loads(ready.read_text())
    return facts
