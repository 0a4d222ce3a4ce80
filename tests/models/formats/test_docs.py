"""docs/formats.md shows what is there: every format, commands that parse, Python that exists, its limits."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from legato import cli
from legato.models.containers import known, source
from legato.models.containers.headed import MAX_HEADER_BYTES
from legato.models.formats import formats
from tests.models.formats.test_hostile import ALL

PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^legato .*$", PAGE, re.MULTILINE)]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    cli.build_parser(cli.subcommands()).parse_args(words)


def test_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("convert", "inspect"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"(--[a-z][a-z-]+)", PAGE)) - {"--minutes"} <= options


def test_every_format_has_its_row() -> None:
    rows = re.findall(r"^\| (.*?), (?:`\.\w+`|any container) \|", PAGE, re.MULTILINE)
    assert {module.TITLE for module in formats()} | {"legato"} == set(rows)


def test_limits_are_told() -> None:
    names = len(known.CALLS.keys() | known.CLASSES | known.INERT) + len(known.STORAGES)
    assert f"a table of {names} " in PAGE
    assert f"{source.MAX_FILE_BYTES >> 30} GiB of file, {source.MAX_OPCODES:,} opcodes" in PAGE
    assert f"{source.MAX_TEXT_BYTES >> 20} MiB of text, {source.MAX_TENSORS:,} tensors" in PAGE
    assert f"{MAX_HEADER_BYTES >> 20} MiB of a safetensors header" in PAGE
    assert f"\n{len(ALL) // 10 * 10} hostile files" in PAGE


def test_python_names_exist() -> None:
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names)
