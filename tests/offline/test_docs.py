"""docs/offline.md shows what is there: commands that parse, options and method keys that exist, Python that runs."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from legato import cli
from legato.inversion.method import METHODS, parse_method

PAGE = (Path(__file__).parents[2] / "docs" / "offline.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[1:] for line in re.findall(r"^legato (?:invert|edit) .*$", PAGE, re.MULTILINE)
]


@pytest.mark.parametrize("words", [["legato", *words] for words in COMMANDS], ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    cli.build_parser(cli.subcommands()).parse_args(words[1:])


def test_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("invert", "edit"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"(--[a-z][a-z-]+)", PAGE)) <= known


def test_methods_take_what_the_page_says() -> None:
    rows = dict(re.findall(r"^\| `(\w+(?:`, `\w+)?)`[^|]*\|[^|]*\| *([^|\n]*?) *\|$", PAGE, re.MULTILINE))
    named = {name: keys for names, keys in rows.items() for name in re.split(r"`, `", names) if name in METHODS}
    assert {"w", "w_plus", "in_domain", "multi_code"} <= set(named)
    for name, keys in named.items():
        options = parse_method(name).options
        for key in re.findall(r"`(\w+)`", keys):
            assert hasattr(options, key), f"{name} has no {key}"


def test_python_names_exist() -> None:
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names)
