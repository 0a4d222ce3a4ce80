"""docs/own_model.md shows what is there: its commands parse, its figures of the log are those that trainings write."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from legato import cli

PAGE = (Path(__file__).parents[2] / "docs" / "own_model.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^(?:torchrun .* -m )?(legato .*)$", BLOCKS, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    cli.build_parser(cli.subcommands()).parse_args(shlex.split(command)[1:])


def test_there_are_commands() -> None:
    assert {command.split()[1] for command in COMMANDS} == {
        "train", "invert", "directions", "edit", "serve", "tune",
    }  # fmt: skip


def test_names_of_the_log_are_those_of_the_trainings() -> None:
    told = re.findall(r"^\| (`[^|]*`) \|", PAGE, re.MULTILINE)
    names = {name for row in told for name in re.findall(r"`(\w+)`", row)}
    sources = "".join(path.read_text() for path in (Path(__file__).parents[2] / "service/legato/train").glob("*.py"))
    assert "psnr_db" in names
    assert all(f'"{name}"' in sources for name in names)
