"""Mutates valid model files of every kind and loads them: a refusal or a network, nothing else, in bounded memory.

    python -m scripts.fuzz_formats --minutes 10

Ends with 1 at the first surprise and keeps the file that caused it (--keep).
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from legato.errors import LegatoError
from legato.models import load_encoder, load_generator, load_residual_encoder
from legato.models.inspection import inspect
from tests.models.formats.corpus import write_corpus

MEMORY = 1 << 30  # bytes beyond what the imports took
READERS: tuple[Callable[[Path], object], ...] = (load_generator, inspect, load_encoder, load_residual_encoder)
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x28, 0x2E, 0x52, 0x62, 0x63, 0x81, 0x93, 0x82, 0x71, 0x68)


def mutate(raw: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled, or brought over from another file; mostly where the structure is."""
    data = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = place(data, chance)
        kind = chance.randrange(8)
        if kind == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            data[at : at + 1] = bytes([chance.choice(INTERESTING)])
        elif kind == 2:
            data[at : at + 1] = bytes([data[at] ^ 1 << chance.randrange(8)]) if at < len(data) else b""
        elif kind == 3:
            size = chance.choice((1, 2, 4, 8))
            number = chance.choice((0, 1, 2**7, 2**15, 2**31, 2**63 - 1, 2**64 - 1))
            data[at : at + size] = number.to_bytes(8, "little")[:size]
        elif kind == 4:
            del data[at : at + chance.choice((1, 4, 100, 10_000))]
        elif kind == 5:
            data[at:at] = data[at : at + chance.choice((1, 8, 64, 1000))]
        elif kind == 6:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            data[at : at + 64] = other[start : start + chance.choice((4, 64, 512))]
        else:
            del data[chance.randrange(len(data) + 1) :]
        if not data:
            return b""
    return bytes(data)


def place(data: bytearray, chance: random.Random) -> int:
    """Anywhere, or among the first or last bytes, where headers, pickles and directories are."""
    near = min(len(data), 6000)
    return chance.choice((chance.randrange(len(data)), chance.randrange(near), len(data) - 1 - chance.randrange(near)))


def outcome(path: Path) -> str:
    """What came of a file. Whatever is no LegatoError comes out of here."""
    told = []
    for read in READERS:
        try:
            read(path)
            told.append("loaded")
        except LegatoError as error:
            if str(path) not in str(error):
                raise RuntimeError("a message does not name the file") from error
            told.append("refused")
    return told[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_formats_failure"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    chance, counts = random.Random(args.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_corpus(Path(folder))
        originals = {path: path.read_bytes() for path in paths}
        for path in paths:
            assert outcome(path) in ("loaded", "refused")
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        end = time.monotonic() + 60 * args.minutes
        slowest = 0.0
        while time.monotonic() < end:
            path = chance.choice(paths)
            raw = mutate(originals[path], list(originals.values()), chance)
            victim = path.with_name(f"mutated{path.suffix}")
            victim.write_bytes(raw)
            start = time.process_time()
            try:
                counts[f"{path.name}: {outcome(victim)}"] += 1
            except BaseException:
                kept = args.keep.with_suffix(path.suffix)
                kept.write_bytes(raw)
                print(f"{path.name}: something else than a refusal; the file is {kept}", file=sys.stderr)
                raise
            slowest = max(slowest, time.process_time() - start)
    for name, count in sorted(counts.items()):
        print(f"{name:44} {count}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{sum(counts.values())} files, slowest {slowest:.2f} s, peak memory {peak:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
