"""A server of one's own: `legato serve` in a child process, for examples, notebooks, benchmarks and tests.

The server's package must be installed; this module does not import it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from legato_client.errors import ServerError, ServerUnreachable

_STOP_SECONDS = 30.0  # beyond the server's own time for its streams


@dataclass(frozen=True)
class LocalServer:
    """A server that answers at `address`; Prometheus reads `metrics_address`. `log` is the file that it writes to."""

    address: str
    metrics_address: str
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def stop(self) -> int:
        """Asks it to stop and waits; its exit code, 0 when it stopped in good order."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """Takes it away without a word."""
        self.process.kill()
        self.process.wait(_STOP_SECONDS)


@contextmanager
def local_server(
    model: str | Path = "heads-128", *, start_seconds: float = 120.0, **settings: object
) -> Iterator[LocalServer]:
    """Starts a server of `model` on free ports of this machine and stops it at the end of the block.

    `settings` are options of `legato serve` (`max_sessions=4`). Raises ServerUnreachable, with what it wrote, where it
    does not answer within `start_seconds`; ServerError where it stops with another exit code than 0 (one that was
    killed by `kill` is left alone).
    """
    with TemporaryDirectory(prefix="legato-") as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "server.log"
        flags = {"model": model, "port": 0, "metrics_port": 0, "ready_file": ready, **settings}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "legato", "serve", *arguments], stdout=output, stderr=output
            )
        try:
            facts = _facts(process, ready, log, start_seconds)
            server = LocalServer(facts["address"], facts["metrics"], log, process)
            yield server
            if (code := server.stop()) not in (0, -signal.SIGKILL):
                raise ServerError(f"the server stopped with exit code {code}: {_told(log)}")
        finally:
            process.kill()
            process.wait(_STOP_SECONDS)


def _facts(process: subprocess.Popen[bytes], ready: Path, log: Path, start_seconds: float) -> dict[str, str]:
    deadline = time.monotonic() + start_seconds
    while not ready.exists():
        if process.poll() is not None:
            raise ServerUnreachable(f"the server did not start (exit code {process.returncode}): {_told(log)}")
        if time.monotonic() > deadline:
            raise ServerUnreachable(f"the server did not answer within {start_seconds:g} s: {_told(log)}")
        time.sleep(0.02)
    facts: dict[str, str] = json.loads(ready.read_text(encoding="utf-8"))
    return facts


def _told(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").strip()[-2000:] or "it wrote nothing"
