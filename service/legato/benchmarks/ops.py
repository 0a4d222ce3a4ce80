"""`legato bench ops`: every op beside its alternatives, in one process."""

from __future__ import annotations

import fnmatch
import gc
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from legato.benchmarks import ceilings
from legato.benchmarks.cases import MODES, OPS, Case, Entrant, Mode, Setting, cases
from legato.benchmarks.ceilings import Ceilings
from legato.benchmarks.compiling import Compiler
from legato.benchmarks.peers import Peers, PeerUnavailable
from legato.benchmarks.rounds import Call, Contest, Pace, Race, reason
from legato.benchmarks.stamp import stamp
from legato.benchmarks.summary import ratios, summarize
from legato.errors import ConfigError
from legato.ops import require_backends

QUICK_SECONDS = 45.0  # the rest of a minute is for the case that is running then, and for writing the results
QUICK_COMPILE_SECONDS = 12.0
QUICK_COMPILED = ("heads-128 b32.conv1", "heads-128 b64.conv0", "config-f b64.conv1", "config-f b128.conv0")
CACHE = 256 << 20  # bytes of buffers that are rotated on CUDA, so that none is found in the cache
SLOWER = 2.0  # a contender against the ceiling, for estimates of time


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured. layers: patterns of names; peers: a folder of public implementations; seconds: of one race."""

    device: str = "cpu"
    nets: tuple[str, ...] = ("heads-128", "config-f-256")
    ops: tuple[str, ...] = OPS
    layers: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1, 8)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    modes: tuple[Mode, ...] = MODES
    seconds: float = 1.0
    minutes: float | None = None
    peers: Path | None = None
    compile: bool = True
    compile_mode: str = "default"
    quick: bool = False
    seed: int = 0


Tell = Callable[[str, int, int], object]  # what is measured, how many are done, of how many


def run(options: Options, tell: Tell, begun: float | None = None) -> dict[str, Any]:
    """Measure everything, as the result file holds it. The time that the options give counts from `begun`, on the clock
    of perf_counter (default: now).

    Raises ConfigError for a device that is not there and filters that nothing passes, BackendUnavailable where an op
    has no kernel.
    """
    begun = time.perf_counter() if begun is None else begun
    device = _device(options.device)
    live = require_backends(device)
    peers = Peers(options.peers, device)
    plan = planned(options, Setting(device, peers))
    if not plan:
        raise ConfigError(
            "no case passes the filters --only, --nets and --layers; a name is as 'heads-128 b32.conv1' or '256 px'"
        )
    tell("ceilings of the machine", 0, len(plan))
    runner = Runner(options, device, begun)
    results = []
    for index, case in enumerate(plan):
        tell(case.label, index, len(plan))
        results.append(runner.result(case))
    limits = runner.look_at_ceilings()
    for case, result in zip(plan, results, strict=True):
        result["floor_ms"] = limits.floor(case.work, case.dtype) * 1e3 if case.work.bytes else None
    tell("", len(plan), len(plan))
    return {
        "benchmark": "ops",
        "stamp": stamp(),
        "setting": {
            **{name: list(v) if isinstance(v, tuple) else v for name, v in asdict(options).items()},
            "peers": str(options.peers) if options.peers else None,
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "live": live,
            "measured_seconds": round(time.perf_counter() - begun, 1),
        },
        "peers": peers.report(),
        "compile": {"unavailable": runner.compiler.unavailable, "seconds": round(runner.compiler.seconds, 1)},
        "ceilings": {
            "gflops": {name: round(value / 1e9, 1) for name, value in limits.flops.items()},
            "copy_gb_per_s": {str(size): round(value / 1e9, 2) for size, value in limits.bandwidth.items()},
        },
        **summarize(results),
        "cases": results,
    }


def planned(options: Options, setting: Setting) -> list[Case]:
    """The cases in the order in which they are measured: small batches first, forward first, cheap ops first."""
    order = [op for op in reversed(OPS) if op in options.ops]
    plan = [
        case
        for batch in sorted(options.batches)
        for mode in options.modes
        for op in order
        for dtype in options.dtypes
        for case in cases(op, list(options.nets), batch, dtype, mode, setting)
        if not options.layers or any(fnmatch.fnmatch(case.name, pattern) for pattern in options.layers)
    ]
    if options.quick:
        plan.sort(key=_quick_stage)
    return plan


def _quick_stage(case: Case) -> tuple[int, bool, int, float]:
    """What is cheap and in the summary first, so that a slow machine, too, has some cases of each; then batch 1."""
    cheap = _cheap(case)
    if _compiled_when_quick(case):
        stage = 1
    elif case.op in ("synthesis", "to_rgb"):
        stage = 4
    elif case.batch > 1:
        stage = 5 if cheap else 7
    elif case.mode == "forward":
        stage = 0 if (cheap and case.op == "modulated_conv2d") or case.name == "256 px" else 2
    else:
        stage = 3 if cheap else 6
    return stage, case.mode != "forward", case.batch, case.work.flop


def _cheap(case: Case) -> bool:
    return case.work.flop < 1e9


def _compiled_when_quick(case: Case) -> bool:
    return case.name in QUICK_COMPILED and case.op == "modulated_conv2d" and case.mode == "forward" and case.batch == 1


class Runner:
    """Measures one case after the other, within the time that the options give."""

    def __init__(self, options: Options, device: torch.device, begun: float) -> None:
        self.options = options
        self.device = device
        self.limits = ceilings.measure(device, self._dtypes(), repeats=2 if options.quick else 5)
        self._looked = time.perf_counter()
        self.compiler = Compiler(device, wanted=options.compile, mode=options.compile_mode)
        minutes = QUICK_SECONDS / 60 if options.quick and options.minutes is None else options.minutes
        self.end = math.inf if minutes is None else begun + 60.0 * minutes

    def look_at_ceilings(self) -> Ceilings:
        """Measure them once more, for what else the machine does comes and goes: the best counts."""
        self.limits = self.limits.or_better(ceilings.measure(self.device, self._dtypes(), repeats=1))
        self._looked = time.perf_counter()
        return self.limits

    def _dtypes(self) -> list[str]:
        return list(dict.fromkeys(("float32", *self.options.dtypes)))

    def result(self, case: Case) -> dict[str, Any]:
        """One case as the result file holds it: what ran, and why the rest did not."""
        if time.perf_counter() > self._looked + (6.0 if self.options.quick else 60.0):
            self.look_at_ceilings()
        race = self._race(case)
        return {
            "op": case.op,
            "name": case.name,
            "nets": list(case.nets),
            "batch": case.batch,
            "dtype": case.dtype,
            "mode": case.mode,
            "gflop": case.work.flop / 1e9,
            "mbytes": case.work.bytes / 1e6,
            "floor_ms": None,  # once all is measured
            "rounds": race.rounds,
            "median_ms": {name: value * 1e3 for name, value in race.median.items()},
            "iqr_ms": {name: value * 1e3 for name, value in race.spread.items()},
            "difference": race.difference,
            "ratios": ratios(case.op, case.dtype, race.median),
            "not_run": race.not_run,
        }

    def _race(self, case: Case) -> Race:
        if left_out := self._left_out(case):
            return Race(not_run={"ours": left_out})
        try:
            return self._contest(case)
        except Exception as error:  # of building the inputs: out of memory, above all
            return Race(not_run={"ours": reason(error)})
        finally:
            self.compiler.forget()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _pace(self, case: Case) -> Pace:
        if self.options.quick:
            return Pace(0.1, 7 if _cheap(case) else 2, 40)
        return Pace(self.options.seconds)

    def _left_out(self, case: Case) -> str:
        if self.end < math.inf:
            floors = 5 * self.limits.floor(case.work, case.dtype) + self.limits.floor(case.work, "float32")
            if time.perf_counter() + SLOWER * (1 + self._pace(case).least) * floors > self.end:
                return "skipped: no time left"
        if case.memory > (free := _free_memory(self.device)):
            return f"skipped: needs about {case.memory / 2**30:.0f} GiB; {free / 2**30:.0f} are free"
        return ""

    def _contest(self, case: Case) -> Race:
        contest = Contest(self.device, case.agreement, grad=case.mode == "forward_backward")
        sets = 1
        if self.device.type == "cuda":
            sets = int(min(8, max(1, CACHE // max(case.work.bytes, 1))))
        entrants = [case.build(self.options.seed + index) for index in range(sets)]
        plain: dict[str, list[Entrant]] = {}
        for name in entrants[0]:
            if why := self._not_wanted(name, case):
                contest.race.not_run[name] = why
                continue
            try:
                made = [makers[name]() for makers in entrants]
            except PeerUnavailable as error:
                contest.race.not_run[name] = str(error)
                continue
            admitted = contest.admit(name, [entrant.call(case.mode) for entrant in made])
            if name == "ours" and not admitted:
                return contest.race
            if admitted and made[0].compiles:
                plain[name] = made
        for name in sorted(plain, key=contest.first_call.__getitem__)[: 1 if self.options.quick else 2]:
            self._admit_compiled(contest, case, name, plain[name])
        return contest.run(self._pace(case), self.end)

    def _not_wanted(self, name: str, case: Case) -> str:
        if name.startswith("grouped/") and case.memory_grouped > (free := _free_memory(self.device)):
            return f"skipped: needs about {case.memory_grouped / 2**30:.0f} GiB; {free / 2**30:.0f} are free"
        if self.options.quick and name.startswith("grouped/") and name != "grouped/float32":
            return "skipped: --quick"
        return ""

    def _admit_compiled(self, contest: Contest, case: Case, name: str, made: list[Entrant]) -> None:
        """The same function under torch.compile."""
        compiled = name.replace("eager/", "compile/")
        if why := self._not_compiled(case):
            contest.race.not_run[compiled] = why
            return
        function = self.compiler.compiled(made[0].function)
        calls: list[Call] = [entrant.call(case.mode, function) for entrant in made]
        begun = time.perf_counter()
        contest.admit(compiled, calls)
        self.compiler.seconds += time.perf_counter() - begun

    def _not_compiled(self, case: Case) -> str:
        if not self.options.compile:
            return "--no-compile"
        if self.options.quick:
            if not _compiled_when_quick(case):
                return "skipped: --quick compiles some layers alone"
            if self.compiler.seconds > QUICK_COMPILE_SECONDS or time.perf_counter() + QUICK_COMPILE_SECONDS > self.end:
                return "skipped: no time left to compile"
        return self.compiler.unavailable


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device is cpu or cuda; got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device is cpu or cuda; got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here")
    return device


def _free_memory(device: torch.device) -> float:
    """Bytes that a measurement may take."""
    if device.type == "cuda":
        return 0.8 * float(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return 0.7 * 1024.0 * int(line.split()[1])
    return float("inf")
