"""Loads files one after the other in little memory and tells as JSON what came of each: run as a program."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import torch

from legato.errors import LegatoError
from legato.models import load_generator
from legato.models.inspection import inspect

MEMORY = 1 << 29  # bytes beyond what the imports took


def main() -> None:
    folder, results, seconds = Path(sys.argv[1]), {}, {}
    os.chdir(folder)
    torch.set_num_threads(1)
    torch.zeros(2).requires_grad_()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    for path in sorted(folder.iterdir()):
        told, start = [], time.process_time()
        for read in (load_generator, inspect):
            try:
                read(path)
                told.append("loaded")
            except LegatoError as error:
                told.append(str(error))
            except BaseException as error:
                told.append(f"{type(error).__name__} escaped: {error}")
        results[path.name] = told
        seconds[path.name] = round(time.process_time() - start, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"results": results, "peak": peak, "seconds": seconds}))


if __name__ == "__main__":
    main()
