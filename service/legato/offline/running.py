"""All inputs of a command, one after the other, as seen from a terminal: a bar each, a table at the end.

An input that cannot be done is told and left out; what stops all of them (a full disk, outputs of something else in
the way) is raised. Everything but the table or the JSON goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from legato.errors import ConfigError, InvalidInput
from legato.inversion.consecutive import ConsecutiveOptions
from legato.inversion.methods import Progress
from legato.offline.codes import Codes, load_codes
from legato.offline.inverting import Job, Report, codes_of
from legato.offline.reading import ALL_LETTERBOXED, Item, Reading, read
from legato.offline.sources import Source, find
from legato.offline.writing import write_json

Done = tuple[list[Report], dict[str, str]]  # reports; what could not be done and why, by name


def say(text: str) -> None:
    """A line to the person who waits, above a bar that is there."""
    tqdm.write(text, file=sys.stderr)


def run_all(
    sources: Sequence[Source],
    resolution: int,
    work: Callable[[Item, Progress], Report],
    how: Reading = ALL_LETTERBOXED,
) -> Done:
    """Reads every source and works on it."""
    reports: list[Report] = []
    failed: dict[str, str] = {}
    for number, source in enumerate(sources, 1):
        title = source.name if len(sources) == 1 else f"[{number}/{len(sources)}] {source.name}"
        with _told(source.name, failed):
            item = read(source, resolution, how=how)
            for line in (item.fitted, *item.skipped):
                if line:
                    say(line)
            if item.skipped:
                failed[source.name] = "; ".join(item.skipped)
            with bar(title) as progress:
                reports.append(work(item, progress))
    return reports, failed


def work_on(paths: Sequence[Path], job: Job, work: Callable[[Codes], Report]) -> Done:
    """Works on the codes in files, and on those of pictures, which are inverted first."""
    reports: list[Report] = []
    failed: dict[str, str] = {}
    taken: set[str] = set()
    for path in (path for path in paths if path.suffix == ".npz"):
        codes = _load(path, job)
        if codes.name in taken:
            raise ConfigError(f"{path}: a second input is named {codes.name!r}; edit it with another --out")
        taken.add(codes.name)
        with _told(codes.name, failed):
            reports.append(work(codes))
    pictures = [path for path in paths if path.suffix != ".npz"]
    if pictures:
        sources = find(pictures, together=_together(job), leave_out=job.out)
        found, more = run_all(
            sources, job.model.resolution, lambda item, progress: work(codes_of(item, job, say, progress)), job.how
        )
        reports, failed = reports + found, failed | more
    return reports, failed


def open_codes(path: Path, job: Job) -> Codes:
    """The codes in a file, or of one picture or clip. Raises LegatoError."""
    if path.suffix == ".npz":
        return _load(path, job)
    sources = find([path], together=_together(job), leave_out=job.out)
    if len(sources) > 1:
        raise ConfigError(f"{path} holds {len(sources)} inputs, and one is wanted; name a picture or a clip")
    item = read(sources[0], job.model.resolution, how=job.how)
    for line in (item.fitted, *item.skipped):
        if line:
            say(line)
    with bar(item.name) as progress:
        return codes_of(item, job, say, progress)


@contextlib.contextmanager
def bar(title: str) -> Iterator[Progress]:
    """Gives the function that moves a bar on a terminal, which appears with the first step, wherever that is."""
    shown: list[tqdm[Any]] = []

    def tell(done: int, total: int) -> None:
        if not shown:
            if done > 1:
                say(f"{title}: goes on at step {done} of {total}")
            shown.append(tqdm(desc=title, total=total, initial=done - 1, unit="step", disable=None, dynamic_ncols=True))
        shown[0].update(done - shown[0].n)

    try:
        yield tell
    finally:
        for each in shown:
            each.close()


def finish(out: Path, reports: Sequence[Report], failed: dict[str, str], *, as_json: bool) -> int:
    """Tells what was written. Returns the exit code: 1 where something failed."""
    if as_json:
        print(json.dumps({"inputs": list(reports), "not_done": failed}, indent=2, ensure_ascii=False))
    else:
        for report in reports:
            top = dict.fromkeys(str(file).partition("/")[0] for file in report["files"])  # of a folder its name alone
            print(f"{out / str(report['name'])}: {', '.join(top)}")
    return _code(failed)


def conclude(out: Path, reports: Sequence[Report], failed: dict[str, str], *, as_json: bool) -> int:
    """Writes report.json of inversions and prints their table, or the JSON. Returns the exit code."""
    report = {"inputs": list(reports), "not_done": failed}
    write_json(out / "report.json", report)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    elif reports:
        Console().print(table(reports))
        print(f"everything is in {out}")
    return _code(failed)


def table(reports: Sequence[Report]) -> Table:
    """A row for each inversion."""
    shown = Table(box=box.SIMPLE)
    for name in ("input", "frames", "encoder dB", "PSNR dB", "passes/frame", "seconds"):
        shown.add_column(name, justify="left" if name == "input" else "right")
    for report in reports:
        encoder = report["encoder_psnr_db"]
        shown.add_row(
            str(report["name"]),
            str(report["frames"]),
            "-" if encoder is None else f"{encoder:.2f}",
            f"{report['psnr_db']:.2f}",
            f"{report['passes_per_frame']:g}",
            f"{report['seconds']:.1f}",
        )
    return shown


@contextlib.contextmanager
def _told(name: str, failed: dict[str, str]) -> Iterator[None]:
    """Tells what one input alone is to blame for, and goes on with the next."""
    try:
        yield
    except InvalidInput as error:
        if error.reason not in ("INVALID_INPUT", "INVALID_IMAGE"):
            raise  # of the options: no input can be done with them
        failed[name] = str(error)
        say(f"{name}: not done: {error}")


def _code(failed: dict[str, str]) -> int:
    if failed:
        say(f"not done, or not whole: {', '.join(failed)}")
    return 1 if failed else 0


def _load(path: Path, job: Job) -> Codes:
    generator = job.model.generator
    return load_codes(path, digest=generator.digest, device=generator.w_avg.device)


def _together(job: Job) -> bool:
    return isinstance(job.method.options, ConsecutiveOptions)
