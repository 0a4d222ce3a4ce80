"""What the client's tests need of servers beyond `legato_client.local`."""

from __future__ import annotations

import time

from legato_client import Client, Overloaded, Session

WAIT_SECONDS = 60.0  # a stalled machine, not a slow server


def open_soon(client: Client) -> Session:
    """A session as soon as there is room for it: those that lost their stream are let go one by one."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return client.open()
        except Overloaded:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
