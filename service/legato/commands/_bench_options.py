"""What the benchmarks' commands share: where results go, a progress bar."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from legato.errors import ConfigError

PICTURES = (".png", ".svg", ".pdf")


def add_results(parser: argparse.ArgumentParser, picture: str) -> None:
    """--json and --picture."""
    out = parser.add_argument_group("results")
    out.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured, stamped")
    out.add_argument(
        "--picture", type=Path, metavar="FILE", help=f"{picture}, as .png, .svg or .pdf; needs legato[bench]"
    )


def check_results(args: argparse.Namespace) -> None:
    """Before an hour of measuring, not after it. Raises ConfigError for a target that cannot be written."""
    for target in (args.json, args.picture):
        _check_target(target)
    if args.picture and args.picture.suffix.lower() not in PICTURES:
        raise ConfigError(f"{args.picture}: a picture is one of {', '.join(PICTURES)}")
    if args.picture and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--picture needs matplotlib: pip install 'legato[bench]'")


def write_json(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _check_target(path: Path | None) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def progress(unit: str) -> Iterator[Callable[[str, int, int], object]]:
    """A progress bar on a terminal; gives the function that moves it."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None) as bar:

        def tell(what: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description_str(what, refresh=False)
            bar.update(done - bar.n)

        yield tell
