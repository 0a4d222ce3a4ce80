"""Does a server keep what it was given? `python -m benchmarks.bench_soak`.

At least so many sessions are opened, streamed and closed, and at least so long, in a mix of policies, edits and steps;
some clients break off without a word, resume, send what is no picture, invert whole clips or single images. The
server's resident memory is read all the while. At the end every place must be free again, and memory back where it
was after the warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from legato.benchmarks.stamp import stamp
from legato_client import AsyncClient, AsyncSession, Budget, Client, ConnectionLost, Edit, LegatoError, Overloaded
from legato_client.load import walk
from legato_client.local import LocalServer, local_server

ROOT = Path(__file__).resolve().parents[1]
Pixels = NDArray[np.uint8]
ALLOWED_MIB = 20.0
SETTLE_SECONDS = 5.0
RESUME_SECONDS = 2.0
FRAMES = (3, 30)  # of a session
NO_PICTURE = b"\xff\xd8\xff this is no JPEG"


class Soak:
    """The clients. Each takes one session after the other, in a way that is drawn."""

    def __init__(self, client: AsyncClient, frames: Sequence[Pixels], directions: Sequence[str], seed: int) -> None:
        self._client, self._frames, self._directions = client, frames, directions
        self._draw = random.Random(seed)
        self.sessions = 0
        self.counts: Counter[str] = Counter()

    async def go_on(self, until: Callable[[], bool]) -> None:
        ways: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (self._close, 10), (self._break_off, 3), (self._resume, 3), (self._bad_frames, 2),
            (self._invert_clip, 0.3), (self._invert, 1),
        ]  # fmt: skip
        while not until():
            way = self._draw.choices([way for way, _ in ways], [weight for _, weight in ways])[0]
            try:
                await way()
                self.counts[way.__name__.strip("_")] += 1
            except (Overloaded, ConnectionLost) as error:  # gRPC may lose the reason of a refusal
                self.counts[f"refused {error.reason}"] += 1
                await asyncio.sleep(0.1)

    async def _open(self, **more: Any) -> AsyncSession:
        edits = [Edit(self._draw.choice(self._directions), 1.0)] if self._draw.random() < 0.5 else []
        policy: Any = self._draw.choice(("ordered", "latest"))
        draw = self._draw.choice
        budget = Budget(draw((0, 0, 1, 2, 4)), draw((0.0, 0.1, 0.5)), draw((0, 0, 2)))
        session = await self._client.open(edits=edits, policy=policy, budget=budget, **more)
        self.sessions += 1
        return session

    def _some(self) -> list[Pixels | bytes]:
        first, count = self._draw.randrange(len(self._frames)), self._draw.randint(*FRAMES)
        return [self._frames[(first + n) % len(self._frames)] for n in range(count)]

    async def _stream(self, session: AsyncSession, frames: Sequence[Pixels | bytes]) -> None:
        async for answer in session.stream(frames):
            self.counts[type(answer).__name__] += 1

    async def _close(self) -> None:
        session = await self._open()
        await self._stream(session, self._some())
        await session.close(timeout=60.0)

    async def _break_off(self) -> None:
        session = await self._open()
        for frame in self._some()[:4]:
            await session.send(frame, timeout=60.0)
        await session.cancel()

    async def _resume(self) -> None:
        session = await self._open()
        frames = self._some()
        await self._stream(session, frames)
        token, last = session.resume_token, len(frames)
        await session.cancel()
        with suppress(LegatoError):  # where the machine took longer than the session is kept
            again = await self._client.open(resume_token=token, last_seq=last)
            await self._stream(again, self._some())
            await again.close(timeout=60.0)

    async def _bad_frames(self) -> None:
        session = await self._open()
        frames = self._some()
        frames[1:1] = [NO_PICTURE, np.zeros((4, 4, 3), np.uint8)]
        await self._stream(session, frames)
        await session.close(timeout=60.0)

    async def _invert_clip(self) -> None:
        await self._client.invert_clip(list(self._frames[:4]), "consecutive:steps=4", timeout=600.0)

    async def _invert(self) -> None:
        await self._client.invert(self._frames[0], steps=1, timeout=60.0)


async def soak(server: LocalServer, frames: Sequence[Pixels], names: Sequence[str], args: Any) -> dict[str, Any]:
    """Runs the clients; what they met, and the memory (seconds, MiB)."""
    begun, memory = time.monotonic(), [(0.0, resident_mib(server))]
    async with AsyncClient(server.address) as client:
        clients = [Soak(client, frames, names, seed) for seed in range(args.clients)]

        def over() -> bool:
            enough = sum(one.sessions for one in clients) >= args.sessions
            return bool(enough and time.monotonic() - begun >= 60.0 * args.minutes)

        async def watch() -> None:
            while True:
                await asyncio.sleep(args.every)
                memory.append((round(time.monotonic() - begun, 1), resident_mib(server)))

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(one.go_on(over) for one in clients))
        loaded = time.monotonic() - begun
        await asyncio.sleep(RESUME_SECONDS + SETTLE_SECONDS)
        watching.cancel()
        memory.append((round(time.monotonic() - begun, 1), resident_mib(server)))
        places = await free_places(client, args.places)
    return {
        "seconds": round(loaded, 1),
        "sessions": sum(one.sessions for one in clients),
        "met": dict(sum((one.counts for one in clients), Counter[str]())),
        "places_free_at_the_end": places,
        "memory_mib": memory,
    }


async def free_places(client: AsyncClient, places: int) -> int:
    """How many sessions can be open at once."""
    opened: list[AsyncSession] = []
    with suppress(Overloaded):
        while len(opened) <= places:
            opened.append(await client.open())
    for session in opened:
        await session.close(timeout=60.0)
    return len(opened)


def resident_mib(server: LocalServer) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii").split()[1])
    return round(pages * 4096 / 2**20, 2)


def active_sessions(server: LocalServer) -> int:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10.0) as page:
        for line in page.read().decode().splitlines():
            if line.startswith("legato_sessions_active "):
                return int(float(line.split()[1]))
    raise LegatoError("the server's page tells no legato_sessions_active")


def judge(found: dict[str, Any], warm: float, places: int) -> dict[str, Any]:
    """Memory at the end beside that after the warm-up: the median over its last fifth, so that no one moment counts."""
    curve = found["memory_mib"]
    span = warm * found["seconds"]
    first = [mib for seconds, mib in curve if 0.8 * span <= seconds <= span] or [curve[0][1]]
    growth = curve[-1][1] - statistics.median(first)
    leaked = places - found["places_free_at_the_end"] + found["sessions_active_at_the_end"]
    return {
        "after_warm_up_mib": round(statistics.median(first), 2),
        "at_the_end_mib": curve[-1][1],
        "growth_mib": round(growth, 2),
        "places_leaked": leaked,
        "kept": growth <= ALLOWED_MIB and leaked == 0,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where memory came back and no place was lost, else 1."""
    args = parser().parse_args(arguments)
    settings = {"max_sessions": args.places, "resume_seconds": RESUME_SECONDS, "threads": args.threads}
    with local_server(args.model, **settings) as server:
        with Client(server.address) as client:
            names = [direction.name for direction in client.list_directions()]
            frames = walk(client, 24)
        found = asyncio.run(soak(server, frames, names, args))
        found["sessions_active_at_the_end"] = active_sessions(server)
    summary = judge(found, args.warm, args.places)
    setting = {key: getattr(args, key) for key in ("sessions", "minutes", "clients", "places", "warm", "threads")}
    setting["model"] = Path(args.model).name
    result = {"benchmark": "soak", "stamp": stamp(), "setting": setting, "summary": summary, **found}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{found['sessions']} sessions in {found['seconds']:.0f} s: {json.dumps(found['met'])}")
    print(json.dumps(summary))
    return 0 if summary["kept"] else 1


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="heads-128", help="name or folder (default: %(default)s)")
    options.add_argument("--sessions", type=int, default=1000, help="at least (default: %(default)s)")
    options.add_argument("--minutes", type=float, default=10.0, help="at least (default: %(default)s)")
    options.add_argument("--clients", type=int, default=12, help="sessions at once (default: %(default)s)")
    options.add_argument("--places", type=int, default=24, help="of the server (default: %(default)s)")
    options.add_argument(
        "--warm", type=float, default=0.2, help="part of the time that warms up (default: %(default)s)"
    )
    options.add_argument("--every", type=float, default=1.0, help="seconds between two readings (default: %(default)s)")
    options.add_argument("--threads", type=int, default=0, help="of the server's model; 0: its default")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "soak.json")
    return options


if __name__ == "__main__":
    sys.exit(main())
